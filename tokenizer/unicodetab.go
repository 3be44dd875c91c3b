package tokenizer

import (
	"sync"
	"unicode"
)

// category is a rune's Unicode general category. The control characters that
// count as white space (tab to carriage return, next line) have one of their
// own, so that \s is a union of categories.
type category uint8

const (
	catCn category = iota
	catLu
	catLl
	catLt
	catLm
	catLo
	catMn
	catMc
	catMe
	catNd
	catNl
	catNo
	catPc
	catPd
	catPs
	catPe
	catPi
	catPf
	catPo
	catSm
	catSc
	catSk
	catSo
	catZs
	catZl
	catZp
	catCc
	catCf
	catCs
	catCo
	catControlSpace
	numCategories
)

// catMask is a set of categories, bit 1<<category each.
type catMask uint32

const (
	maskL     catMask = 1<<catLu | 1<<catLl | 1<<catLt | 1<<catLm | 1<<catLo
	maskM     catMask = 1<<catMn | 1<<catMc | 1<<catMe
	maskN     catMask = 1<<catNd | 1<<catNl | 1<<catNo
	maskP     catMask = 1<<catPc | 1<<catPd | 1<<catPs | 1<<catPe | 1<<catPi | 1<<catPf | 1<<catPo
	maskS     catMask = 1<<catSm | 1<<catSc | 1<<catSk | 1<<catSo
	maskZ     catMask = 1<<catZs | 1<<catZl | 1<<catZp
	maskC     catMask = 1<<catCn | 1<<catCc | 1<<catCf | 1<<catCs | 1<<catCo | 1<<catControlSpace
	maskSpace catMask = maskZ | 1<<catControlSpace
	maskWord  catMask = maskL | maskM | 1<<catNd | 1<<catNl | 1<<catPc
	maskAll   catMask = 1<<numCategories - 1
)

// maskNames are the property names that \p{...} may carry in a pattern.
var maskNames = map[string]catMask{
	"L": maskL, "M": maskM, "N": maskN, "P": maskP, "S": maskS, "Z": maskZ,
	"C":  maskC,
	"Lu": 1 << catLu, "Ll": 1 << catLl, "Lt": 1 << catLt, "Lm": 1 << catLm, "Lo": 1 << catLo,
	"Mn": 1 << catMn, "Mc": 1 << catMc, "Me": 1 << catMe,
	"Nd": 1 << catNd, "Nl": 1 << catNl, "No": 1 << catNo,
	"Pc": 1 << catPc, "Pd": 1 << catPd, "Ps": 1 << catPs, "Pe": 1 << catPe,
	"Pi": 1 << catPi, "Pf": 1 << catPf, "Po": 1 << catPo,
	"Sm": 1 << catSm, "Sc": 1 << catSc, "Sk": 1 << catSk, "So": 1 << catSo,
	"Zs": 1 << catZs, "Zl": 1 << catZl, "Zp": 1 << catZp,
	"Cc": 1<<catCc | 1<<catControlSpace, "Cf": 1 << catCf, "Cs": 1 << catCs,
	"Co": 1 << catCo, "Cn": 1 << catCn,
}

// The category of every rune in two stages: a page of 256 runes, then the rune
// within it. Pages that are equal share storage.
var (
	categoryPages [unicode.MaxRune>>8 + 1]uint16
	categoryCells []category

	loadCategories = sync.OnceFunc(buildCategories)
)

func buildCategories() {
	flat := make([]category, unicode.MaxRune+1)
	for cat, table := range []*unicode.RangeTable{
		catLu: unicode.Lu, catLl: unicode.Ll, catLt: unicode.Lt, catLm: unicode.Lm, catLo: unicode.Lo,
		catMn: unicode.Mn, catMc: unicode.Mc, catMe: unicode.Me,
		catNd: unicode.Nd, catNl: unicode.Nl, catNo: unicode.No,
		catPc: unicode.Pc, catPd: unicode.Pd, catPs: unicode.Ps, catPe: unicode.Pe,
		catPi: unicode.Pi, catPf: unicode.Pf, catPo: unicode.Po,
		catSm: unicode.Sm, catSc: unicode.Sc, catSk: unicode.Sk, catSo: unicode.So,
		catZs: unicode.Zs, catZl: unicode.Zl, catZp: unicode.Zp,
		catCc: unicode.Cc, catCf: unicode.Cf, catCs: unicode.Cs, catCo: unicode.Co,
	} {
		if table != nil {
			fillCategory(flat, table, category(cat))
		}
	}
	for r := '\t'; r <= '\r'; r++ {
		flat[r] = catControlSpace
	}
	flat[0x85] = catControlSpace

	pages := make(map[[256]category]uint16)
	for page := range categoryPages {
		cells := [256]category(flat[page<<8:])
		index, ok := pages[cells]
		if !ok {
			index = uint16(len(pages))
			pages[cells] = index
			categoryCells = append(categoryCells, cells[:]...)
		}
		categoryPages[page] = index
	}
}

func fillCategory(flat []category, table *unicode.RangeTable, cat category) {
	for _, r := range table.R16 {
		for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
			flat[c] = cat
		}
	}
	for _, r := range table.R32 {
		for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
			flat[c] = cat
		}
	}
}

// categoryOf returns the category of r. [loadCategories] must have run.
func categoryOf(r rune) category {
	if uint32(r) > unicode.MaxRune {
		return catCn
	}
	return categoryCells[uint32(categoryPages[r>>8])<<8|uint32(r)&0xff]
}

// circledLetters are the symbols that count as letters of words.
var circledLetters = []runeRange{{0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}}

// onigWordDigits are the numbers, none of them decimal digits, that Oniguruma
// counts as word characters because they are in Latin-1.
var onigWordDigits = []runeRange{{0xb2, 0xb3}, {0xb9, 0xb9}, {0xbc, 0xbe}}

// isWordRune reports whether r is a word character for Rust's regex crate.
func isWordRune(r rune) bool {
	if isCategory(r, maskWord) || r == 0x200c || r == 0x200d {
		return true
	}
	for _, c := range circledLetters {
		if c.lo <= r && r <= c.hi {
			return true
		}
	}
	return false
}

// isCategory reports whether r is in one of the categories of m.
func isCategory(r rune, m catMask) bool {
	return m>>categoryOf(r)&1 != 0
}
