package distill

import (
	"math"
	"slices"

	"llmc/internal/fault"
	"llmc/kernels"
)

// Kind is what a student's predictions are compared with a teacher's by.
type Kind uint8

// The kinds of losses. P is the teacher's distribution of the next token and Q
// the student's, both at the temperature.
const (
	KL           Kind = iota // KL(P||Q), forward (arXiv 1503.02531, section 2)
	ReverseKL                // KL(Q||P) (arXiv 2306.08543, section 2.1)
	JS                       // generalised Jensen-Shannon (arXiv 2306.13649, equation 1)
	TV                       // total variation, half the sum of |P-Q|
	CrossEntropy             // the text alone: -log Q(next token)
)

var kindNames = []string{KL: "kl", ReverseKL: "reverse-kl", JS: "js", TV: "tv", CrossEntropy: "ce"}

// Kinds lists the names of the losses.
func Kinds() []string { return slices.Clone(kindNames) }

// ParseKind returns the kind of a name.
func ParseKind(name string) (Kind, error) {
	if i := slices.Index(kindNames, name); i >= 0 {
		return Kind(i), nil
	}
	return 0, fault.Usage("%q is no loss, allowed are kl, reverse-kl, js, tv, ce", name)
}

// String is the name that ParseKind reads.
func (k Kind) String() string { return kindNames[k] }

// Loss says what a row of a student's logits costs:
//
//	Alpha * T² * divergence(P, Q) + (1-Alpha) * cross-entropy
//
// where P and Q are at the temperature T and the cross-entropy is not. T² keeps
// the size of the gradients as it is at T = 1 (arXiv 1503.02531, section 2.1).
type Loss struct {
	Kind        Kind
	Temperature float64 // more than 0
	Alpha       float64 // share of the divergence, 0 to 1; no matter to CrossEntropy
	// Beta is the weight of the teacher in the mixture of JS, between 0 and 1:
	// β KL(P||M) + (1-β) KL(Q||M), M = βP + (1-β)Q.
	Beta float64
}

// Check refuses numbers that make no loss.
func (l *Loss) Check() error {
	switch {
	case int(l.Kind) >= len(kindNames):
		return fault.Usage("there is no loss %d", l.Kind)
	case l.Kind == CrossEntropy:
		return nil
	case !(l.Temperature > 0) || math.IsInf(l.Temperature, 0):
		return fault.Usage("the temperature is %g, allowed is more than 0", l.Temperature)
	case !(l.Alpha >= 0 && l.Alpha <= 1):
		return fault.Usage("the share of the teacher is %g, allowed are 0 to 1", l.Alpha)
	case l.Kind == JS && !(l.Beta > 0 && l.Beta < 1):
		return fault.Usage("the weight of the teacher in the mixture is %g, allowed is more than 0 and less than 1", l.Beta)
	}
	return nil
}

// Teaches reports whether the loss looks at a teacher.
func (l *Loss) Teaches() bool { return l.Kind != CrossEntropy && l.Alpha > 0 }

// Prediction is what a teacher says of one row: all its logits, or the most
// likely tokens with their log-probabilities at the temperature. All others are
// then one bucket, and so they are for the student.
type Prediction struct {
	Logits []float32 // [vocabulary], or nil; changed by Loss.Row

	IDs      []int32   // the most likely tokens, each once
	LogProbs []float32 // of IDs
	LogTail  float32   // the logarithm of the probability of all others, -Inf for none
}

// Value is what a row costs: the loss and its two parts, in nats. A part that
// has no share in the loss is 0.
type Value struct {
	Loss         float64
	Divergence   float64 // without T²
	CrossEntropy float64
}

func (v *Value) add(o Value) {
	v.Loss += o.Loss
	v.Divergence += o.Divergence
	v.CrossEntropy += o.CrossEntropy
}

// Scratch is what Loss.Row works with; each goroutine needs its own.
type Scratch struct {
	scaled       []float32 // logits over the temperature, then probabilities
	logS, logT   []float64 // by bucket
	grad         []float64
	cross, saved []float32
}

// Row replaces a row of the student's logits z by the gradient of the loss times
// scale and returns the loss, which is not scaled. p is the teacher's prediction
// for the row, nil when the loss does not look at it; its vocabulary may be
// padded to another length than z, and what only one of the two has does not
// count in the divergence. next is the token that follows in the text. A result
// that is not finite comes of logits that are not.
func (l *Loss) Row(z []float32, p *Prediction, next int32, scale float64, s *Scratch) Value {
	if !l.Teaches() {
		v := crossEntropy(z, next, scale)
		return Value{Loss: v, CrossEntropy: v}
	}
	var v Value
	cross := s.cross[:0]
	if l.Alpha < 1 {
		s.cross = append(s.cross[:0], z...)
		cross = s.cross
		v.CrossEntropy = crossEntropy(cross, next, scale*(1-l.Alpha))
	}
	// The derivative by z is that by z/T over T, so T² becomes T.
	weight := l.Alpha * l.Temperature * scale
	if p.Logits != nil {
		n := min(len(z), len(p.Logits))
		v.Divergence = l.full(z[:n], p.Logits[:n], weight, s)
		clear(z[n:])
	} else {
		v.Divergence = l.top(z, p, weight, s)
	}
	for i, g := range cross {
		z[i] += g
	}
	v.Loss = l.Alpha*l.Temperature*l.Temperature*v.Divergence + (1-l.Alpha)*v.CrossEntropy
	return v
}

// crossEntropy replaces z by weight * (softmax(z) - onehot(next)) and returns
// -log softmax(z)[next].
func crossEntropy(z []float32, next int32, weight float64) float64 {
	d, ok := kernels.Summarize(z)
	if !ok {
		return poison(z)
	}
	value := d.LogSum - float64(z[next])
	d.LogSum -= math.Log(weight) // so that exponentials come out weighted
	kernels.Softmax(z, d)
	// 1 - p of the token itself, without cancellation when p is almost 1.
	z[next] = float32(weight * math.Expm1(-value))
	return value
}

// poison makes a row and its loss NaN: its logits are not finite.
func poison(z []float32) float64 {
	nan := math.NaN()
	for i := range z {
		z[i] = float32(nan)
	}
	return nan
}

// full replaces z by weight times the gradient of the divergence by z/T, from
// the teacher's logits u of the same length, and returns the divergence.
func (l *Loss) full(z, u []float32, weight float64, s *Scratch) float64 {
	if t := float32(l.Temperature); t != 1 {
		for i := range z {
			z[i] /= t
			u[i] /= t
		}
	}
	dz, ok := kernels.Summarize(z)
	du, ok2 := kernels.Summarize(u)
	if !ok || !ok2 {
		return poison(z)
	}
	w := float32(weight)
	switch l.Kind {
	case KL:
		value := kernels.Divergence(u, z, du, dz)
		kernels.Softmax(z, dz)
		kernels.Softmax(u, du)
		for i, p := range u {
			z[i] = w * (z[i] - p)
		}
		return value
	case ReverseKL:
		value := kernels.Divergence(z, u, dz, du)
		s.scaled = append(s.scaled[:0], z...)
		kernels.Softmax(s.scaled, dz)
		shift := dz.LogSum - du.LogSum + value
		for i, q := range s.scaled {
			z[i] = w * q * float32(float64(z[i])-float64(u[i])-shift)
		}
		return value
	}
	kernels.Softmax(z, dz)
	kernels.Softmax(u, du)
	if l.Kind == TV {
		return totalVariation(z, u, w)
	}
	return l.jensenShannon(z, u, w)
}

// totalVariation replaces the student's probabilities q by w times the gradient
// by its logits.
func totalVariation(q, p []float32, w float32) float64 {
	value, mean := 0.0, 0.0
	p = p[:len(q)]
	for i, x := range q {
		d := float64(x) - float64(p[i])
		value += math.Abs(d)
		mean += math.Copysign(float64(x), d)
	}
	for i, x := range q {
		sign := math.Copysign(1, float64(x)-float64(p[i]))
		q[i] = w * x * float32((sign-mean)/2)
	}
	return value / 2
}

// jensenShannon replaces the student's probabilities q by w times the gradient
// by its logits, and p by what it works with.
func (l *Loss) jensenShannon(q, p []float32, w float32) float64 {
	ofP, ofQ := 0.0, 0.0
	for i, x := range q {
		a, b := float64(p[i]), float64(x)
		m := l.Beta*a + (1-l.Beta)*b
		if m == 0 {
			continue
		}
		// log(b/m) = log(1 + β(b-a)/m), and log(a/m) alike.
		d := (b - a) / m
		g := log1p(l.Beta * d)
		if a > 0 {
			ofP += a * log1p((l.Beta-1)*d)
		}
		if b > 0 {
			ofQ += b * g
		} else {
			g = 0
		}
		p[i] = float32(g)
	}
	for i, x := range q {
		if x > 0 {
			q[i] = w * float32(1-l.Beta) * x * float32(float64(p[i])-ofQ)
		}
	}
	return l.Beta*ofP + (1-l.Beta)*ofQ
}

// log1p is log(1+x) within 1e-7 of itself, several times as fast as math.Log1p:
// by powers of s = (f-1)/(f+1), where 1+x is a power of 2 times f, which is near
// 1.
func log1p(x float64) float64 {
	s, e := x/(2+x), 0.0
	if x < -0.25 || x > 0.4 {
		if !(x > -1) {
			return math.Log1p(x)
		}
		const half = 0x3fe6a09e667f3bcd // bits of the square root of 1/2
		bits := math.Float64bits(1+x) - half
		f := math.Float64frombits(bits&(1<<52-1) + half)
		s, e = (f-1)/(f+1), float64(int64(bits)>>52)
	}
	q := s * s
	return e*math.Ln2 + 2*s*(1+q*(1.0/3+q*(1.0/5+q*(1.0/7+q*(1.0/9)))))
}
