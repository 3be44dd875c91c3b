package distill

import (
	"math"

	"llmc/kernels"
)

// top replaces z by weight times the gradient of the divergence by z/T between
// two distributions over buckets: each of p.IDs that the student has, and all
// other tokens together. It returns the divergence.
func (l *Loss) top(z []float32, p *Prediction, weight float64, s *Scratch) float64 {
	if t := float32(l.Temperature); t != 1 {
		for i := range z {
			z[i] /= t
		}
	}
	if !s.buckets(z, p) {
		return poison(z)
	}
	value := l.divergence(s.logS, s.logT, s.grad)
	// The others share their bucket's gradient by their probability within it.
	k := len(s.logS) - 1
	others := float32(weight * s.grad[k])
	for i := range z {
		z[i] *= others
	}
	at := 0
	for _, id := range p.IDs {
		if int(id) < len(z) {
			z[id] = float32(weight * s.grad[at])
			at++
		}
	}
	return value
}

// buckets sets logS and logT to the logarithms of the buckets' probabilities,
// the tail last, and z to the probabilities of the tokens in the tail given that
// it is one of them. It is false when a logit is not finite.
func (s *Scratch) buckets(z []float32, p *Prediction) bool {
	all, ok := kernels.Summarize(z)
	if !ok {
		return false
	}
	s.logS, s.logT, s.saved = s.logS[:0], s.logT[:0], s.saved[:0]
	const gone = -math.MaxFloat32 / 4 // its exponential is 0
	tail := float64(p.LogTail)
	for i, id := range p.IDs {
		if int(id) >= len(z) { // what the student cannot say
			tail = logAdd(tail, float64(p.LogProbs[i]))
			continue
		}
		s.logS = append(s.logS, float64(z[id])-all.LogSum)
		s.logT = append(s.logT, float64(p.LogProbs[i]))
		z[id] = gone
	}
	logTail := math.Inf(-1)
	if len(s.logS) < len(z) {
		// Summed by itself, so that a tail of 1e-9 is as exact as any other.
		rest, _ := kernels.Summarize(z)
		kernels.Softmax(z, rest)
		logTail = rest.LogSum - all.LogSum
	} else {
		clear(z)
	}
	s.logS, s.logT = append(s.logS, logTail), append(s.logT, tail)
	for len(s.grad) < len(s.logS) {
		s.grad = append(s.grad, 0)
	}
	return true
}

func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(a, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// divergence returns the divergence of distributions given by logarithms, and
// sets grad to its derivatives by the student's logits, one for each bucket.
func (l *Loss) divergence(logS, logT, grad []float64) float64 {
	value, mean := 0.0, 0.0
	for i, ls := range logS {
		lt := logT[i]
		q, p := math.Exp(ls), math.Exp(lt)
		g := 0.0 // the derivative by q
		switch l.Kind {
		case KL:
			value += times(p, lt-max(ls, -100)) // a student may have no tail at all
			grad[i] = q - p
			continue
		case ReverseKL:
			if q > 0 {
				// A tail that the teacher rules out: what it stores for 0.
				g = ls - max(lt, logFloor)
				value += q * g
			}
		case TV:
			g = math.Copysign(0.5, q-p)
			value += math.Abs(q-p) / 2
		case JS:
			m := math.Log(l.Beta*p + (1-l.Beta)*q)
			value += l.Beta*times(p, lt-m) + (1-l.Beta)*times(q, ls-m)
			if q > 0 {
				g = (1 - l.Beta) * (ls - m)
			}
		}
		grad[i] = g
		mean += q * g
	}
	if l.Kind == KL {
		return value
	}
	for i, ls := range logS {
		grad[i] = math.Exp(ls) * (grad[i] - mean)
	}
	return value
}

// logFloor is the least log-probability of a bucket that reverse KL, which does
// not bear 0, is given.
const logFloor = -40

// times is p*x, and 0 where p is, whatever x.
func times(p, x float64) float64 {
	if p == 0 {
		return 0
	}
	return p * x
}

// Top returns the k most likely tokens of a row of logits at a temperature, the
// most likely first and of equals that with the lower id. Logits is changed. It
// is false when a logit is not finite.
func Top(logits []float32, temperature float64, k int, p *Prediction) bool {
	if t := float32(temperature); t != 1 {
		for i := range logits {
			logits[i] /= t
		}
	}
	d, ok := kernels.Summarize(logits)
	if !ok {
		return false
	}
	k = min(k, len(logits))
	p.Logits = nil
	p.IDs = largest(logits, k, p.IDs[:0])
	p.LogProbs = p.LogProbs[:0]
	for _, id := range p.IDs {
		p.LogProbs = append(p.LogProbs, float32(float64(logits[id])-d.LogSum))
		logits[id] = -math.MaxFloat32 / 4
	}
	p.LogTail = float32(math.Inf(-1))
	if k < len(logits) {
		rest, _ := kernels.Summarize(logits)
		p.LogTail = float32(rest.LogSum - d.LogSum)
	}
	return true
}

// largest appends the indices of the k largest numbers of x to ids, the largest
// first and of equals the lower.
func largest(x []float32, k int, ids []int32) []int32 {
	less := func(a, b int32) bool { return x[a] < x[b] || x[a] == x[b] && a > b }
	// A heap of the best so far, the least of them on top.
	down := func(heap []int32, i int) {
		for {
			child := 2*i + 1
			if child >= len(heap) {
				return
			}
			if child+1 < len(heap) && less(heap[child+1], heap[child]) {
				child++
			}
			if !less(heap[child], heap[i]) {
				return
			}
			heap[i], heap[child] = heap[child], heap[i]
			i = child
		}
	}
	for i := range x {
		switch id := int32(i); {
		case len(ids) < k:
			if ids = append(ids, id); len(ids) == k {
				for j := k/2 - 1; j >= 0; j-- {
					down(ids, j)
				}
			}
		case x[i] > x[ids[0]]:
			ids[0] = id
			down(ids, 0)
		}
	}
	for n := len(ids) - 1; n > 0; n-- {
		ids[0], ids[n] = ids[n], ids[0]
		down(ids[:n], 0)
	}
	return ids
}
