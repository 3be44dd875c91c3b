package eval

// Subject is one model to measure, loaded.
type Subject struct {
	Path         string // how reports and errors call it
	Architecture string
	Scheme       string // how its weights are stored: "BF16", "Q4_K_M", "gptq 4-bit, group 128"
	Parameters   int64
	SizeBytes    int64 // of the weights on disk
	WeightBytes  int64 // of the tensors, what BitsPerWeight is of
	Context      int   // tokens that the model was made for; 0 if it does not say

	encoder encoder
	runner  runner
	bosID   int32 // the BOS that the tokenizer adds; -1 for none
}

// bos returns the token that the tokenizer puts before every text, if it does.
func (s *Subject) bos() (int32, bool) { return s.bosID, s.bosID >= 0 }

// bitsPerWeight is the average storage of a parameter, 0 when not known.
func (s *Subject) bitsPerWeight() float64 {
	if s.Parameters == 0 {
		return 0
	}
	return 8 * float64(s.SizeBytes) / float64(s.Parameters)
}
