package solve

import (
	"math"

	"llmc/kernels"
)

// leafSize is the size of a triangle that is factored or inverted by itself,
// in float64. Everything larger is cut into halves and products of them.
const leafSize = 64

// Cholesky factors the symmetric a [n, n] in place into a = R Rᵀ, R upper
// triangular with zeros below its diagonal, and returns false when a is not
// positive definite. Only what is on and above a's diagonal is read.
//
// R is the factor of a with its rows and columns reversed, reversed back:
// LAPACK's potrf gives L of a = L Lᵀ. It is what [InvertUpper] turns into the
// factor of a⁻¹ that error feedback needs.
func Cholesky(cpu *kernels.CPU, a kernels.Block) bool {
	s := solver{cpu: cpu}
	if !s.factor(a) {
		return false
	}
	for i := range a.Rows {
		clear(a.Row(i)[:i])
	}
	return true
}

// InvertUpper inverts an upper triangular matrix in place; what is stored below
// its diagonal must be zero. It returns false when a result is not finite.
func InvertUpper(cpu *kernels.CPU, r kernels.Block) bool {
	s := solver{cpu: cpu}
	return s.invert(r)
}

// Solve solves A X = B, given R of A = R Rᵀ from [Cholesky], with B [n, m]
// becoming X.
func Solve(cpu *kernels.CPU, r, b kernels.Block) {
	s := solver{cpu: cpu}
	s.substitute(r, b, false)
	s.substitute(r, b, true)
}

// solver is the device of one solution and its memory.
type solver struct {
	cpu  *kernels.CPU
	work []float32
	leaf [2][leafSize * leafSize]float64
	tri  [leafSize * leafSize]float32
}

// halves cuts n so that leaves are full, all but the last.
func halves(n int) int { return (n/leafSize + 1) / 2 * leafSize }

// quarters cuts a triangle [n, n] into the first triangle, the square, and the
// second triangle.
func quarters(a kernels.Block) (first, square, second kernels.Block) {
	n := a.Rows
	h := halves(n)
	return a.Slice(0, h, 0, h), a.Slice(0, h, h, n), a.Slice(h, n, h, n)
}

// factor is Cholesky without the zeros: with a = [A B; Bᵀ C] and R = [P S; 0 Q],
// C = Q Qᵀ, B = S Qᵀ, and A - S Sᵀ = P Pᵀ.
func (s *solver) factor(a kernels.Block) bool {
	if a.Rows <= leafSize {
		return s.factorLeaf(a)
	}
	first, square, second := quarters(a)
	if !s.factor(second) {
		return false
	}
	s.divide(square, second)
	s.cpu.Update(kernels.Update{Dst: first, Alpha: -1, A: square, B: square, TransB: true, Upper: true})
	return s.factor(first)
}

// factorLeaf is factor, element by element.
func (s *solver) factorLeaf(a kernels.Block) bool {
	n, r := a.Rows, &s.leaf[0]
	for j := n - 1; j >= 0; j-- {
		for i := j; i >= 0; i-- {
			sum := float64(a.Row(i)[j])
			x, y := r[i*leafSize+j+1:i*leafSize+n], r[j*leafSize+j+1:j*leafSize+n]
			for p, v := range x {
				sum -= v * y[p]
			}
			if i < j {
				r[i*leafSize+j] = sum / r[j*leafSize+j]
			} else if sum > 0 && !math.IsInf(sum, 1) {
				r[j*leafSize+j] = math.Sqrt(sum)
			} else {
				return false
			}
		}
	}
	for i := range n {
		for j := i; j < n; j++ {
			a.Row(i)[j] = float32(r[i*leafSize+j])
		}
	}
	return true
}

// divide makes b [m, n] into X with X Rᵀ = b: of R = [P S; 0 Q] and X = [Y Z],
// Z Qᵀ = the second half of b, and Y Pᵀ = the first - Z Sᵀ.
func (s *solver) divide(b, r kernels.Block) {
	n := r.Rows
	if n <= leafSize {
		s.invertLeaf(r, s.tri[:])
		inverse := kernels.NewBlock(s.tri[:n*n], n, n)
		s.replace(b, kernels.Update{A: b, B: inverse, TransB: true, Alpha: 1})
		return
	}
	h := halves(n)
	first, square, second := quarters(r)
	y, z := b.Slice(0, b.Rows, 0, h), b.Slice(0, b.Rows, h, n)
	s.divide(z, second)
	s.cpu.Update(kernels.Update{Dst: y, Alpha: -1, A: z, B: square, TransB: true})
	s.divide(y, first)
}

// substitute makes b [n, m] into X with R X = b, or Rᵀ X = b.
func (s *solver) substitute(r, b kernels.Block, transposed bool) {
	n := r.Rows
	if n <= leafSize {
		s.invertLeaf(r, s.tri[:])
		inverse := kernels.NewBlock(s.tri[:n*n], n, n)
		s.replace(b, kernels.Update{A: inverse, TransA: transposed, B: b, Alpha: 1})
		return
	}
	h := halves(n)
	first, square, second := quarters(r)
	y, z := b.Slice(0, h, 0, b.Cols), b.Slice(h, n, 0, b.Cols)
	if transposed {
		s.substitute(first, y, true)
		s.cpu.Update(kernels.Update{Dst: z, Alpha: -1, A: square, TransA: true, B: y})
		s.substitute(second, z, true)
		return
	}
	s.substitute(second, z, false)
	s.cpu.Update(kernels.Update{Dst: y, Alpha: -1, A: square, B: z})
	s.substitute(first, y, false)
}

// invert is InvertUpper: the inverse of [P S; 0 Q] is [P⁻¹ -P⁻¹SQ⁻¹; 0 Q⁻¹].
func (s *solver) invert(r kernels.Block) bool {
	n := r.Rows
	if n <= leafSize {
		s.invertLeaf(r, s.tri[:])
		for i := range n {
			for j, v := range s.tri[i*n:][:n] {
				if v-v != 0 {
					return false
				}
				r.Row(i)[j] = v
			}
		}
		return true
	}
	first, square, second := quarters(r)
	if !s.invert(first) || !s.invert(second) {
		return false
	}
	s.replace(square, kernels.Update{A: square, B: second, UpperB: true, Alpha: 1})
	s.replace(square, kernels.Update{A: first, UpperA: true, B: square, Alpha: -1})
	return true
}

// invertLeaf sets inverse [n, n] to that of an upper triangle, computed in
// float64.
func (s *solver) invertLeaf(r kernels.Block, inverse []float32) {
	n, a, x := r.Rows, &s.leaf[0], &s.leaf[1]
	for i := range n {
		for j, v := range r.Row(i)[i:] {
			a[i*leafSize+i+j] = float64(v)
		}
	}
	clear(inverse[:n*n])
	for i := n - 1; i >= 0; i-- {
		row := x[i*leafSize:][:n]
		clear(row)
		row[i] = 1
		for p := i + 1; p < n; p++ {
			f := a[i*leafSize+p]
			to, from := row[p:], x[p*leafSize+p:p*leafSize+n]
			for j, v := range from {
				to[j] -= f * v
			}
		}
		for j := i; j < n; j++ {
			row[j] /= a[i*leafSize+i]
			inverse[i*n+j] = float32(row[j])
		}
	}
}

// replace sets b to a product, which may have b in it.
func (s *solver) replace(b kernels.Block, u kernels.Update) {
	if size := b.Rows * b.Cols; cap(s.work) < size {
		s.work = make([]float32, size)
	}
	u.Dst = kernels.NewBlock(s.work[:b.Rows*b.Cols], b.Rows, b.Cols)
	clear(u.Dst.Data)
	s.cpu.Update(u)
	for i := range b.Rows {
		copy(b.Row(i), u.Dst.Row(i))
	}
}
