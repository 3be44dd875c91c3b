package kernels

import "encoding/binary"

// segment is a run of elements in a block of a type: a panel has each element
// of all its rows together.
type segment struct {
	at    int // byte of the block
	size  int // bytes of an element, 2 or 4, or turned
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

// pack rearranges the rows of d into panels. Rows after the last are zeros,
// whose scales are zero too.
func (c *CPU) pack(w *integerWeight, d *Dense) {
	panels := ceilDiv(w.rows, w.lanes)
	w.data = alignedBytes(panels * w.lanes * w.rowLen)
	c.jobs.panels = packPanels{w: w, src: d.Data}
	c.pool.run(panels, &c.jobs.panels)
	c.jobs.panels = packPanels{}
}

// packPanels rearranges the rows of one panel in each part.
type packPanels struct {
	w   *integerWeight
	src []byte
}

func (t *packPanels) run(_, part int) {
	w := t.w
	first, size := part*w.lanes, w.lanes*w.rowLen
	panel := w.data[part*size:][:size]
	for lane := range min(w.lanes, w.rows-first) {
		w.packRow(panel, t.src[(first+lane)*w.rowLen:][:w.rowLen], lane)
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
			default:
				for i := 0; i < len(src); i += 2 {
					binary.LittleEndian.PutUint16(dst[i/2*step:], binary.LittleEndian.Uint16(src[i:]))
				}
			}
			panel = panel[s.count*step:]
		}
	}
}
