package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dlclark/regexp2"
)

// randomText returns text of mixed scripts, cases, digits, spaces and marks.
func randomText(rng *rand.Rand, words int) string {
	pools := [][]string{
		strings.Split("abcdefghijklmnopqrstuvwxyz", ""), strings.Split("ABCDEFGHIJKLMNOPQRSTUVWXYZ", ""),
		strings.Split("0123456789", ""), strings.Split("!\"#$%&()*+,-./:;<=>?@[]^_`{|}~", ""),
		{" ", " ", " ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", "\r", "\v", "\u00a0", "\u0085", "\u2028", "\u3000"},
		{"'s", "'S", "'t", "'re", "'RE", "'ve", "'m", "'LL", "'ll", "'d", "'D", "'\u017f", "'x", "''"},
		strings.Split("éÉüßñçØæŒıİſKÅǅʰªµΩωабвГДЁ", ""), strings.Split("一二文龥ぁあアー々가힣ㄱกขคक", ""),
		{"\u0301", "\u0308", "\u093e", "\u20dd", "\u200d", "\ufe0f"}, strings.Split("²½Ⅷ٣五௧", ""),
		strings.Split("…“”’—：，。（）😀🚀€®×", ""), {"\x00", "\x1c", "\x7f", "\ue000", "\U000e0001", "\ufffd"},
	}
	var b strings.Builder
	for range words {
		pool := pools[rng.IntN(len(pools))]
		for range 1 + rng.IntN(4) {
			b.WriteString(pool[rng.IntN(len(pool))])
		}
		if rng.IntN(3) == 0 {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// generalEngine writes what pattern and regexp2 spell differently: classes
// within classes.
func generalEngine(t *testing.T, expr string) matcher {
	t.Helper()
	expr = strings.NewReplacer(
		upper, `(?:(?=\p{L})[^a-z])`, lower, `(?:(?=\p{L})[^A-Z])`,
		upperMarks, `(?:(?=[\p{L}\p{M}])[^a-z])`, lowerMarks, `(?:(?=[\p{L}\p{M}])[^A-Z])`,
		`[\p{L}&&[^`+han+`]]`, `(?:(?=\p{L})[^`+han+`])`,
		eastAsian, "(?:(?=[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff])\\S)+",
		`&&[^\s]]+`, `-[\s]]+`,
	).Replace(expr)
	if expr == hfBloom {
		expr = finnish
	}
	re, err := regexp2.Compile(translate(expr), regexp2.Multiline)
	if err != nil {
		t.Fatal(err)
	}
	return &generalRegex{re: re}
}

// expressions returns every expression that is known by name.
func expressions() []string {
	var all []string
	for _, p := range ggufPreList {
		all = append(all, p.expressions...)
	}
	for _, p := range hfPres {
		all = append(all, p.steps...)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(s string) bool {
		return s == eachDigit || s == digitRun || s == punctuation || s == digitGroups || s == digitTriples
	})
}

// TestPatternsMatchGeneralEngine compares with regexp2, whose sense of case
// differs from Oniguruma's for one character, the long s.
func TestPatternsMatchGeneralEngine(t *testing.T) {
	compiled := 0
	for _, expr := range expressions() {
		p, err := compilePattern(expr)
		if err != nil {
			t.Logf("left to the general engine: %s", expr)
			continue
		}
		compiled++
		general := generalEngine(t, expr)
		rng := rand.New(rand.NewPCG(1, 2))
		for range 150 {
			text := strings.ReplaceAll(randomText(rng, 12), "\u017f", "")
			got, want := p.matches(text, nil), general.matches(text, nil)
			if !slices.Equal(got, want) {
				t.Errorf("%s\n%q: got %v, want %v", expr, text, got, want)
				break
			}
		}
	}
	if compiled < 40 {
		t.Errorf("only %d expressions are compiled", compiled)
	}
}

func TestPatternFoldsLikeOniguruma(t *testing.T) {
	p := mustPattern(`(?i:'s)|x`)
	if got := p.matches("'\u017f'S'sx", nil); !slices.Equal(got, []span{{0, 3}, {3, 5}, {5, 7}, {7, 8}}) {
		t.Error(got)
	}
}

func TestPatternSyntax(t *testing.T) {
	for _, test := range []struct {
		expr, text string
		want       []span
	}{
		{`a{2}`, "aaaaa", []span{{0, 2}, {2, 4}}},
		{`a{2,}b`, "aaab", []span{{0, 4}}},
		{`a+?b|a*?c`, "aabac", []span{{0, 3}, {3, 5}}},
		{`a++a|b`, "aab", []span{{2, 3}}},
		{`(?:ab|a)(?:c|bc)`, "abc abbc", []span{{0, 3}, {4, 8}}},
		{`(?:x|y)?z`, "xzyzz", []span{{0, 2}, {2, 4}, {4, 5}}},
		{`a(?=b)`, "aab", []span{{1, 2}}},
		{`\s+$`, "a  \nb \t", []span{{1, 3}, {5, 7}}},
		{`[^\S\n]+`, "a \t\n b", []span{{1, 3}, {4, 5}}},
		{`[a-z&&[^m-p]]+`, "almnz", []span{{0, 2}, {4, 5}}},
		{`b*`, "abba", []span{{0, 0}, {1, 3}, {4, 4}}},
		{`[[a-c]x]+`, "axyc", []span{{0, 2}, {3, 4}}},
	} {
		p, err := compilePattern(test.expr)
		if err != nil {
			t.Errorf("%s: %v", test.expr, err)
			continue
		}
		if got := p.matches(test.text, nil); !slices.Equal(got, test.want) {
			t.Errorf("%s in %q: got %v, want %v", test.expr, test.text, got, test.want)
		}
	}
	for _, expr := range []string{`(`, `)`, `a**`, `[`, `[a`, `\`, `(?<=a)b`, `(a+)+`, `a{3,2}`, `(?:a{65536}){8}b{999999}`, `\1`, `[b-a]`, `^a`, `x{`} {
		if _, err := compilePattern(expr); err == nil {
			t.Errorf("%q was compiled", expr)
		}
	}
}

// TestPatternWorkIsBounded matches expressions that take a backtracking engine
// exponential or polynomial time.
func TestPatternWorkIsBounded(t *testing.T) {
	start := time.Now()
	text := strings.Repeat("a", 20000)
	for _, expr := range []string{
		`a*a*a*a*a*a*b`, strings.Repeat(`(?:a|a)?`, 40) + `b`, `\s+$`,
	} {
		p, err := compilePattern(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		p.matches(text, nil)
		p.matches(strings.Repeat(" ", 20000)+"b", nil)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestTranslate(t *testing.T) {
	for expr, want := range map[string]string{
		`[^\r\n\p{L}]?+\p{L}++`: `(?>[^\r\n\p{L}]?)(?>\p{L}+)`,
		`\h+`:                   `[0-9a-fA-F]+`,
		`[\h_]`:                 `[0-9a-fA-F_]`,
	} {
		if got := translate(expr); got != want {
			t.Errorf("%s: got %s, want %s", expr, got, want)
		}
	}
}

func TestGeneralRegexGivesUp(t *testing.T) {
	m, err := compileRegex(`(?:a|aa)+[cd]|b`)
	if err != nil {
		t.Fatal(err)
	}
	g, ok := m.(*generalRegex)
	if !ok {
		t.Fatal("compiled as a simple pattern")
	}
	g.re.MatchTimeout = 50 * time.Millisecond
	g.matches(strings.Repeat("a", 60)+"!", nil)
	if !g.failed.Load() {
		t.Error("did not give up")
	}
	if got := g.matches("b", nil); got != nil {
		t.Errorf("found %v after giving up", got)
	}
}
