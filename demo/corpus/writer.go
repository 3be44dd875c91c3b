package corpus

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

// writer expands templates into documents.
//
// In a template, [a|b|c] stands for one of its alternatives, which may nest
// and may be empty, and {key} for a variable. {Key} is the variable with its
// first letter in upper case, {a key} has the article that fits before it.
type writer struct {
	rng  *rand.Rand
	out  strings.Builder
	vars map[string]string
}

// pick returns an element of list, all being equally likely.
func pick[T any](w *writer, list []T) T { return list[w.rng.IntN(len(list))] }

// favour returns an element of list, the earlier the likelier, since in real
// text words are not equally frequent either.
func favour[T any](w *writer, list []T) T {
	return list[min(w.rng.IntN(len(list)), w.rng.IntN(len(list)))]
}

// sample returns n different elements of list in random order.
func sample[T any](w *writer, list []T, n int) []T {
	chosen := make([]T, n)
	for i, j := range w.rng.Perm(len(list))[:n] {
		chosen[i] = list[j]
	}
	return chosen
}

// between returns a number from low to high, both included.
func (w *writer) between(low, high int) int { return low + w.rng.IntN(high-low+1) }

// chance is true percent times in a hundred.
func (w *writer) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *writer) set(key, value string) { w.vars[key] = value }

// setNumber makes {key} the number in words and {key.n} in figures.
func (w *writer) setNumber(key string, n int) {
	w.set(key, words(n))
	w.set(key+".n", strconv.Itoa(n))
}

// setPerson makes {key} the name, and {key.he}, {key.him}, {key.his} and
// {key.child} what else that person is called.
func (w *writer) setPerson(key string, p person) {
	w.set(key, p.name)
	he, him, his, child := "he", "him", "his", "boy"
	if p.female {
		he, him, his, child = "she", "her", "her", "girl"
	}
	w.set(key+".he", he)
	w.set(key+".him", him)
	w.set(key+".his", his)
	w.set(key+".child", child)
}

// say expands a template that is chosen from templates.
func (w *writer) say(templates ...string) { w.expand(pick(w, templates)) }

// sayAll expands every template, with a space between two.
func (w *writer) sayAll(templates ...string) {
	for i, t := range templates {
		if i > 0 {
			w.out.WriteByte(' ')
		}
		w.expand(t)
	}
}

// expand writes one template out.
func (w *writer) expand(template string) {
	for template != "" {
		i := strings.IndexAny(template, "[{")
		if i < 0 {
			w.out.WriteString(template)
			return
		}
		w.out.WriteString(template[:i])
		var inner string
		if template[i] == '{' {
			inner, template, _ = strings.Cut(template[i+1:], "}")
			w.out.WriteString(w.value(inner))
			continue
		}
		var alternatives []string
		alternatives, template = splitAlternatives(template[i+1:])
		w.expand(pick(w, alternatives))
	}
}

// splitAlternatives returns the alternatives up to the bracket that closes
// them, and what follows it.
func splitAlternatives(s string) (alternatives []string, rest string) {
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			depth++
		case '|':
			if depth == 0 {
				alternatives = append(alternatives, s[start:i])
				start = i + 1
			}
		case ']':
			if depth == 0 {
				return append(alternatives, s[start:i]), s[i+1:]
			}
			depth--
		}
	}
	return append(alternatives, s[start:]), ""
}

// value returns what a name in braces stands for. An unknown one stays as it
// is, braces and all, which a test looks for.
func (w *writer) value(name string) string {
	if key, ok := strings.CutPrefix(name, "a "); ok {
		return withArticle(w.value(key))
	}
	if key, ok := strings.CutPrefix(name, "A "); ok {
		return capital(withArticle(w.value(key)))
	}
	if v, ok := w.vars[name]; ok {
		return v
	}
	if v, ok := w.vars[strings.ToLower(name[:1])+name[1:]]; ok {
		return capital(v)
	}
	return "{" + name + "}"
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func withArticle(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

// plural returns the plural of a noun of the word lists, which may have
// adjectives before it.
func plural(noun string) string {
	if i := strings.LastIndexByte(noun, ' '); i >= 0 {
		return noun[:i+1] + plural(noun[i+1:])
	}
	if p, ok := irregular[noun]; ok {
		return p
	}
	last := noun[len(noun)-1]
	switch {
	case strings.HasSuffix(noun, "ch"), strings.HasSuffix(noun, "sh"), last == 's', last == 'x':
		return noun + "es"
	case last == 'y' && !strings.ContainsRune("aeiou", rune(noun[len(noun)-2])):
		return noun[:len(noun)-1] + "ies"
	}
	return noun + "s"
}

// count returns a number of things, such as "one key" or "three keys".
func count(n int, noun string) string {
	if n == 1 {
		return "one " + noun
	}
	return words(n) + " " + plural(noun)
}

var units = []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
	"eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"}

var tens = []string{"", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"}

// words spells a number from 0 to 99.
func words(n int) string {
	if n < len(units) {
		return units[n]
	}
	if n%10 == 0 {
		return tens[n/10]
	}
	return tens[n/10] + "-" + units[n%10]
}

// list joins items as a sentence does: "a, b and c".
func list(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	last := len(items) - 1
	return strings.Join(items[:last], ", ") + " and " + items[last]
}
