package kernels

// Trials are grids of integers that numbers could be rounded to: grid i is
// Scales[i] times the integers from Lows[i] to Highs[i]. All three are of one
// length.
type Trials struct{ Scales, Lows, Highs []float32 }

// Errors sets sums, one for each grid, to the sum over x of the squared
// differences from the nearest number of the grid, times w where that is not nil
// and then as long as x. Each is summed in the order of x, whatever the machine.
func (t *Trials) Errors(sums, x, w []float32) {
	o := defaultOps()
	mustEqual("Trials.Errors", len(sums), len(t.Scales))
	mustEqual("Trials.Errors", len(t.Lows), len(t.Scales))
	mustEqual("Trials.Errors", len(t.Highs), len(t.Scales))
	if w != nil {
		mustEqual("Trials.Errors", len(w), len(x))
	}
	at := 0
	if o.trialLanes > 0 && len(x) > 0 {
		for ; at+o.trialLanes <= len(sums); at += o.trialLanes {
			if w == nil {
				o.trials(&sums[at], &x[0], len(x), &t.Scales[at], &t.Lows[at], &t.Highs[at])
			} else {
				o.weighed(&sums[at], &x[0], &w[0], len(x), &t.Scales[at], &t.Lows[at], &t.Highs[at])
			}
		}
	}
	for ; at < len(sums); at++ {
		sums[at] = trialPortable(x, w, t.Scales[at], t.Lows[at], t.Highs[at])
	}
}

// trialPortable is one sum of Errors.
func trialPortable(x, w []float32, scale, low, high float32) float32 {
	// Adding and taking away 1.5*2^23 leaves a float32 rounded to an integer.
	const magic = 3 << 22
	var sum float32
	for i, v := range x {
		q := min(max(v/scale, low), high)
		d := v - float32((q+magic-magic)*scale) // the conversion forbids fusing
		d *= d
		if w != nil {
			d *= w[i]
		}
		sum += d
	}
	return sum
}
