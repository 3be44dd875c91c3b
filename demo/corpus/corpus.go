// Package corpus writes the text that the built-in demo model is trained,
// calibrated and evaluated on.
//
// [Text] returns any amount of it for a seed; the same seed and size give the
// same bytes on every machine. The text is short English documents of sixteen
// kinds (stories, recipes, weather reports, sums, dialogues, ...), made from
// sentence templates and word lists that were written for this package. Its
// documents are coherent on purpose: a name, a colour or a count that is drawn
// at the start comes back later, facts about the world hold in every document,
// and sums are right. So there is something to learn for a model of a million
// parameters, and something to lose for a model that is quantized too hard.
package corpus

import (
	"math/rand/v2"
	"strings"
)

// Seeds of the texts. They are far apart from each other so that the stream of
// one is not the continuation of another.
const (
	TrainingSeed    uint64 = 1_000_003
	CalibrationSeed uint64 = 2_000_003
	HeldOutSeed     uint64 = 3_000_017
)

// TrainingSize is how many bytes of text the built-in model was trained on.
const TrainingSize = 36_000_000

// Separator stands between two documents. It does not occur inside of one.
const Separator = "\n\n"

// genre is a kind of document: how often it is chosen, and what writes one.
type genre struct {
	name   string
	weight int
	write  func(*writer)
}

var genres = []genre{
	{"story", 22, story},
	{"weather", 7, weatherReport},
	{"recipe", 7, recipe},
	{"how-to", 6, howTo},
	{"sums", 6, sums},
	{"word problem", 8, wordProblem},
	{"inventory", 5, inventory},
	{"dialogue", 9, dialogue},
	{"letter", 6, letter},
	{"room", 5, room},
	{"animal", 5, animalFacts},
	{"town", 4, townFacts},
	{"whereabouts", 5, whereabouts},
	{"reasoning", 6, reasoning},
	{"diary", 5, diary},
	{"village", 18, village},
}

// Text returns at least size bytes of documents, each followed by [Separator].
func Text(seed uint64, size int) string {
	w := &writer{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	total := 0
	for _, g := range genres {
		total += g.weight
	}
	for w.out.Len() < size {
		n := w.rng.IntN(total)
		for _, g := range genres {
			if n -= g.weight; n < 0 {
				w.vars = map[string]string{}
				g.write(w)
				break
			}
		}
		w.out.WriteString(Separator)
	}
	return w.out.String()
}

// Documents returns the documents of a text that [Text] made.
func Documents(text string) []string {
	return strings.Split(strings.TrimSuffix(text, Separator), Separator)
}
