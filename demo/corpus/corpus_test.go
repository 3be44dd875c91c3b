package corpus

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestTextIsDeterministic pins the generator: the built-in model was trained
// on this text, so a change here asks for another training.
func TestTextIsDeterministic(t *testing.T) {
	text := Text(HeldOutSeed, 200_000)
	sum := sha256.Sum256([]byte(text))
	const want = "01724bab51032858"
	if got := hex.EncodeToString(sum[:8]); got != want {
		t.Errorf("held-out text has the hash %s, want %s", got, want)
	}
	if longer := Text(HeldOutSeed, 300_000); !strings.HasPrefix(longer, text) {
		t.Error("a longer text does not begin with the shorter one")
	}
}

// TestTextIsClean looks for templates that did not expand and for blanks in
// the wrong place.
func TestTextIsClean(t *testing.T) {
	wrong := regexp.MustCompile(`[][{}|]|  | \n|\n | [.,;:?!]|[.,]{2}|\n\n\n|\ba [aeio][a-z]|%!`)
	text := Text(7, 3_000_000)
	if len(text) < 3_000_000 {
		t.Fatalf("%d bytes of text, want at least 3,000,000", len(text))
	}
	for _, doc := range Documents(text) {
		if at := wrong.FindStringIndex(doc); at != nil {
			t.Fatalf("%q in the document:\n%s", doc[at[0]:at[1]], doc)
		}
		if doc == "" || strings.TrimSpace(doc) != doc {
			t.Fatalf("document %q is empty or has blanks around it", doc)
		}
	}
}

func TestEveryGenreOccurs(t *testing.T) {
	marks := map[string]string{
		"story": "his friend|her friend|Once upon", "weather": "Weather for", "recipe": "You need:\n-", "how-to": "How to",
		"sums": "(plus|times|less|more|minus) [a-z0-9-]+ is|Count", "word problem": "How many .* does", "inventory": "Total|In all:",
		"dialogue": "(?m)^[A-Z][a-z]+: ", "letter": "Dear [A-Z][a-z]+,\n", "room": "(?:kitchen|garden) of [A-Z][a-z]+, the",
		"animal": "legs", "town": "known for", "whereabouts": "Where is", "reasoning": "Therefore|Who is the", "diary": "Dear diary", "village": "the (?:baker|nurse)",
	}
	text := Text(11, 400_000)
	for _, g := range genres {
		pattern, ok := marks[g.name]
		if !ok {
			t.Errorf("no mark for genre %q", g.name)
		} else if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("genre %q does not occur", g.name)
		}
	}
}

// TestSumsAreRight reads the sums in figures back and works them out.
func TestSumsAreRight(t *testing.T) {
	sum := regexp.MustCompile(`(?m)^(\d+) (plus|minus|times) (\d+) is (\d+)\.$`)
	found := sum.FindAllStringSubmatch(Text(5, 500_000), -1)
	if len(found) < 50 {
		t.Fatalf("%d sums in the text, want more", len(found))
	}
	for _, f := range found {
		a, _ := strconv.Atoi(f[1])
		b, _ := strconv.Atoi(f[3])
		got, _ := strconv.Atoi(f[4])
		want := map[string]int{"plus": a + b, "minus": a - b, "times": a * b}[f[2]]
		if got != want {
			t.Errorf("%s: want %d", f[0], want)
		}
	}
}

// TestSplitsDoNotOverlap compares whole documents: a short sum may come up
// twice, a story must not.
func TestSplitsDoNotOverlap(t *testing.T) {
	seen := map[string]bool{}
	for _, doc := range Documents(Text(TrainingSeed, TrainingSize)) {
		seen[doc] = true
	}
	for _, seed := range []uint64{CalibrationSeed, HeldOutSeed} {
		shared, total := 0, 0
		for _, doc := range Documents(Text(seed, 200_000)) {
			total += len(doc)
			if seen[doc] {
				shared += len(doc)
				if len(doc) > 250 {
					t.Errorf("seed %d: a long document is in the training text:\n%s", seed, doc)
				}
			}
		}
		if shared*50 > total {
			t.Errorf("seed %d: %d of %d bytes are in documents of the training text, want at most 2%%", seed, shared, total)
		}
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[int]string{0: "no", 1: "one", 13: "thirteen", 20: "twenty", 42: "forty-two", 99: "ninety-nine"} {
		if got := words(n); got != want {
			t.Errorf("words(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for noun, want := range map[string]string{
		"ball": "balls", "cherry": "cherries", "key": "keys", "box": "boxes", "brush": "brushes",
		"mouse": "mice", "loaf": "loaves", "peach": "peaches", "compass": "compasses", "red leaf": "red leaves",
	} {
		if got := plural(noun); got != want {
			t.Errorf("plural(%q) = %q, want %q", noun, got, want)
		}
	}
}

func TestExpand(t *testing.T) {
	w := &writer{vars: map[string]string{"x": "owl", "colour": "orange"}}
	w.rng = nil // a template without alternatives needs no chance
	w.expand("{A x} saw {a colour} {x}. {X}!")
	if got, want := w.out.String(), "An owl saw an orange owl. Owl!"; got != want {
		t.Errorf("expanded to %q, want %q", got, want)
	}
	alternatives, rest := splitAlternatives("a|b [c|d]|] e")
	if len(alternatives) != 3 || alternatives[1] != "b [c|d]" || alternatives[2] != "" || rest != " e" {
		t.Errorf("alternatives %q, rest %q", alternatives, rest)
	}
}
