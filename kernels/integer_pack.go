package kernels

import "encoding/binary"

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
	// units returns the bytes of row r, in scratch unless they are in memory.
	units(scratch []byte, r int) []byte
}

// units returns the bytes of row r.
func (d *Dense) units(_ []byte, r int) []byte { return d.bytes(r, 0, d.Cols) }

// pack rearranges rows into panels. Rows after the last are zeros, whose scales
// are zero too.
func (c *CPU) pack(w *integerWeight, src unitRows) {
	panels := ceilDiv(w.rows, w.lanes)
	w.data = alignedBytes(panels * w.lanes * w.rowLen)
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
	if len(s.bytes) < w.rowLen {
		s.bytes = make([]byte, w.rowLen)
	}
	first, size := part*w.lanes, w.lanes*w.rowLen
	panel := w.data[part*size:][:size]
	for lane := range min(w.lanes, w.rows-first) {
		w.packRow(panel, t.src.units(s.bytes[:w.rowLen], first+lane), lane)
	}
}

// packRow writes one lane of a panel.
func (w *integerWeight) packRow(panel, row []byte, lane int) {
	for ; len(row) > 0; row = row[w.format.bytes:] {
		for _, s := range w.format.segments {
			src := row[s.at:][:s.count*s.width()]
			step := w.lanes * s.width()
			dst := panel[lane*s.width():]
			switch s.size {
			case turned:
				binary.LittleEndian.PutUint32(dst, turnBits(binary.LittleEndian.Uint32(src)))
			case 4:
				for i := 0; i < len(src); i += 4 {
					binary.LittleEndian.PutUint32(dst[i/4*step:], binary.LittleEndian.Uint32(src[i:]))
				}
			case 2:
				for i := 0; i < len(src); i += 2 {
					binary.LittleEndian.PutUint16(dst[i/2*step:], binary.LittleEndian.Uint16(src[i:]))
				}
			default:
				for i, v := range src {
					dst[i*step] = v
				}
			}
			panel = panel[s.count*step:]
		}
	}
}
