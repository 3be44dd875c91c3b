package kernels

import (
	"encoding/binary"
	"unsafe"
)

// segment is a run of elements in a block of a type: a panel has each element
// of all its rows together.
type segment struct {
	at    int // byte of the block
	size  int // bytes of an element, 1, 2 or 4, or turned
	count int
}

// turned is the size of an element of 32 bits, one for each column, which
// turnBits puts in order.
const turned = -4

// turnBits moves bit 4i+j to bit i of byte j, so that the bits of 4 columns
// are in the same place of 4 bytes.
func turnBits(bits uint32) (turned uint32) {
	for i := range 8 {
		// Multiplying by this puts bit j of 4 bits to bit 8j.
		turned |= (bits >> (4 * i) & 15 * 0x00204081 & 0x01010101) << i
	}
	return turned
}

// width is the number of bytes of an element.
func (s segment) width() int {
	if s.size == turned {
		return 4
	}
	return s.size
}

// unitRows is a matrix as rows of units.
type unitRows interface {
	// units returns the bytes of n rows from first on, in scratch unless they
	// are in memory.
	units(scratch []byte, first, n int) []byte
}

// units returns the bytes of n rows.
func (d *Dense) units(_ []byte, first, n int) []byte {
	size := len(d.Data) / d.Rows
	return d.Data[first*size:][:n*size]
}

// pack rearranges rows into panels. Rows after the last are zeros, whose scales
// are zero too.
func (c *CPU) pack(w *integerWeight, src unitRows) {
	panels := ceilDiv(w.rows, w.lanes)
	w.data = c.panels.take(panels * w.lanes * w.rowLen)
	c.jobs.panels = packPanels{e: c.engine, w: w, src: src}
	c.pool.run(panels, &c.jobs.panels)
	c.jobs.panels = packPanels{}
}

// packPanels rearranges the rows of one panel in each part.
type packPanels struct {
	e   *engine
	w   *integerWeight
	src unitRows
}

func (t *packPanels) run(worker, part int) {
	w, s := t.w, &t.e.scratch[worker]
	size := w.lanes * w.rowLen
	if len(s.bytes) < size {
		s.bytes = make([]byte, size)
	}
	first, panel := part*w.lanes, w.data[part*size:][:size]
	n := min(w.lanes, w.rows-first)
	rows := t.src.units(s.bytes, first, n)
	var transpose transposeKernel
	if o := t.e.ops.integer; o != nil && n == w.lanes && w.rowLen%4 == 0 {
		transpose = o.transpose
	}
	for ; len(panel) > 0; panel, rows = panel[w.format.bytes*w.lanes:], rows[w.format.bytes:] {
		at := 0
		for _, s := range w.format.segments {
			w.packSegment(panel[at*w.lanes:], rows[s.at:], s, n, transpose)
			at += s.count * s.width()
		}
	}
}

// transposeKernel sets panel[p*stride+j] to src[j*ld+p] for p < 4*steps and all
// lanes j.
type transposeKernel func(panel, src *float32, ld, steps, stride int)

// packSegment writes the elements of a segment of n rows, those of each
// together.
func (w *integerWeight) packSegment(panel, rows []byte, s segment, n int, transpose transposeKernel) {
	from := 0
	if transpose != nil && s.size == 4 {
		_ = rows[(n-1)*w.rowLen+4*s.count-1]
		_ = panel[4*s.count*w.lanes-1]
		if steps := s.count / 4; steps > 0 {
			transpose((*float32)(unsafe.Pointer(&panel[0])), (*float32)(unsafe.Pointer(&rows[0])), w.rowLen/4, steps, w.lanes)
			from = 4 * steps
		}
	}
	for i := from; i < s.count; i++ {
		w.packElement(panel[i*s.width()*w.lanes:], rows[i*s.width():], s.size, n)
	}
}

// packElement writes one element of n rows.
func (w *integerWeight) packElement(dst, src []byte, size, n int) {
	switch size {
	case 1:
		for lane := range n {
			dst[lane] = src[lane*w.rowLen]
		}
	case 2:
		for lane := range n {
			binary.LittleEndian.PutUint16(dst[2*lane:], binary.LittleEndian.Uint16(src[lane*w.rowLen:]))
		}
	case 4:
		for lane := range n {
			binary.LittleEndian.PutUint32(dst[4*lane:], binary.LittleEndian.Uint32(src[lane*w.rowLen:]))
		}
	case turned:
		for lane := range n {
			binary.LittleEndian.PutUint32(dst[4*lane:], turnBits(binary.LittleEndian.Uint32(src[lane*w.rowLen:])))
		}
	}
}
