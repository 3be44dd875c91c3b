package eval

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"llmc/formats"
	"llmc/model"
)

// Summary is what a checkpoint's headers say of it.
type Summary struct {
	Architecture string
	Scheme       string // how the weights are stored: "BF16", "Q4_K_M", "gptq 4-bit group 128"
	Parameters   int64  // numbers that the model consists of, however they are packed
	SizeBytes    int64  // of the files that hold the weights
	WeightBytes  int64  // of the weights alone
	Context      int    // tokens that the model was trained for
}

// Summarize reads no weights.
func Summarize(c *formats.Checkpoint, w *model.Weights) Summary {
	s := Summary{
		Architecture: w.Config.Family.Name, Scheme: Scheme(c, w),
		SizeBytes: c.Size(), Context: w.Config.Context,
	}
	for _, id := range w.Config.IDs() {
		n := int64(1)
		for _, d := range w.Config.Shape(id) {
			n *= int64(d)
		}
		s.Parameters += n
		s.WeightBytes += w.Bytes(id)
	}
	return s
}

// BitsPerWeight is the average storage of a parameter; 0 when not known.
func (s Summary) BitsPerWeight() float64 {
	if s.Parameters == 0 {
		return 0
	}
	return 8 * float64(s.WeightBytes) / float64(s.Parameters)
}

// Scheme names how the weights of a checkpoint are stored: the quantization
// that a Hugging Face configuration or a GGUF file names, else the types of
// the linears, the one with the most bytes first.
func Scheme(c *formats.Checkpoint, w *model.Weights) string {
	if w.Quantization != nil {
		return w.Quantization.String()
	}
	if c.Meta != nil {
		if n, ok := c.Meta.Uint("general.file_type"); ok && ggufSchemes[n] != "" {
			return ggufSchemes[n]
		}
	}
	size := map[string]int64{}
	for _, id := range w.Config.IDs() {
		if !id.Role.IsLinear() || id.Bias {
			continue
		}
		for _, t := range w.Stored(id) {
			size[t.Type.String()] += t.Bytes()
		}
	}
	types := slices.SortedFunc(maps.Keys(size), func(a, b string) int {
		if size[a] != size[b] {
			return int(min(max(size[b]-size[a], -1), 1))
		}
		return strings.Compare(a, b)
	})
	if len(types) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(types[:3], "+"), len(types)-3)
	}
	return strings.Join(types, "+")
}

// ggufSchemes are llama.cpp's numbers for what general.file_type says
// (llama_ftype in llama.h).
var ggufSchemes = map[uint64]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
	10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
	16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
	22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
	28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
	36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}
