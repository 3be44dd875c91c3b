package blocks

import (
	"bytes"
	"testing"

	"llmc/dtype"
	"llmc/kernels/internal/level"
)

// eachLevel runs a test with every level that this machine has, the portable
// one first.
func eachLevel(tb testing.TB, test func(name string)) {
	chosen := native
	tb.Cleanup(func() { native = chosen })
	for _, name := range level.Have() {
		native = lanesOf(name)
		test(name)
	}
	native = chosen
}

// TestLevelsAgree compares rows of all lengths that fill lanes in part, and
// rows of all kinds with all kinds of importance, with what the portable level
// makes of them.
func TestLevelsAgree(t *testing.T) {
	for typ := range quantizers {
		typ := dtype.Type(typ)
		if !CanQuantize(typ) {
			continue
		}
		var want [][]byte
		eachLevel(t, func(name string) {
			var got [][]byte
			for i := range sampleRows {
				row, importance := sampleRow(i), sampleImportance(i)
				n := typ.BlockSize() * (1 + (i+i/16)%(rowLen/typ.BlockSize()))
				if importance != nil {
					importance = importance[rowLen-n:]
				}
				got = append(got, quantized(t, typ, row[rowLen-n:], importance))
			}
			if want == nil {
				want = got
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("%s, %s: row %d is not what the portable level makes of it", typ, name, i)
				}
			}
		})
	}
}
