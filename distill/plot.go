package distill

import (
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strconv"
)

// The picture of a loss curve, in pixels.
const (
	plotWidth, plotHeight = 960, 540
	plotLeft, plotRight   = 80, 20
	plotTop, plotBottom   = 20, 40
)

var (
	ink     = color.RGBA{60, 60, 60, 255}
	rule    = color.RGBA{225, 225, 225, 255}
	trained = color.RGBA{120, 170, 220, 255} // the loss of each step
	smooth  = color.RGBA{20, 90, 170, 255}   // its running mean
	held    = color.RGBA{200, 80, 20, 255}   // on held-out text
)

// WritePNG draws a loss curve: the loss of each step in light blue, its running
// mean in blue, the loss on held-out text in orange.
func WritePNG(w io.Writer, curve []Point, evaluations []Evaluation) error {
	p := newPlot(curve, evaluations)
	p.axes()
	steps := make([]float64, len(curve))
	losses, means := make([]float64, len(curve)), make([]float64, len(curve))
	for i, c := range curve {
		steps[i], losses[i] = float64(c.Step), c.Loss
		means[i] = c.Loss
		if i > 0 {
			means[i] = means[i-1] + (c.Loss-means[i-1])/float64(min(i+1, meanSteps))
		}
	}
	p.line(steps, losses, trained, 1)
	p.line(steps, means, smooth, 2)
	var at, nll []float64
	for _, e := range evaluations {
		at, nll = append(at, float64(e.Step)), append(nll, e.NLL)
	}
	p.line(at, nll, held, 2)
	for i := range at {
		p.dot(p.x(at[i]), p.y(nll[i]), held, 3)
	}
	return png.Encode(w, p.img)
}

// plot is a picture and what its coordinates mean.
type plot struct {
	img         *image.RGBA
	last        float64 // step at the right
	least, most float64 // losses at the bottom and the top
	step        float64 // between two rules
}

func newPlot(curve []Point, evaluations []Evaluation) *plot {
	p := &plot{img: image.NewRGBA(image.Rect(0, 0, plotWidth, plotHeight)), last: 1, least: math.Inf(1), most: math.Inf(-1)}
	see := func(step int, v float64) {
		if finite(v) {
			p.last, p.least, p.most = max(p.last, float64(step)), min(p.least, v), max(p.most, v)
		}
	}
	for _, c := range curve {
		see(c.Step, c.Loss)
	}
	for _, e := range evaluations {
		see(e.Step, e.NLL)
	}
	if p.least > p.most {
		p.least, p.most = 0, 1
	}
	p.step = roundStep((p.most - p.least) / 6)
	p.least = math.Floor(p.least/p.step) * p.step
	p.most = max(math.Ceil(p.most/p.step)*p.step, p.least+p.step)
	for i := range p.img.Pix {
		p.img.Pix[i] = 255
	}
	return p
}

// roundStep is the next number up of the form 1, 2 or 5 times a power of 10.
func roundStep(x float64) float64 {
	if !(x > 1e-9) {
		return 0.1
	}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 2, 5} {
		if x <= f*power*(1+1e-9) {
			return f * power
		}
	}
	return 10 * power
}

func (p *plot) x(step float64) float64 {
	return plotLeft + step/p.last*(plotWidth-plotLeft-plotRight)
}

func (p *plot) y(loss float64) float64 {
	return plotHeight - plotBottom - (loss-p.least)/(p.most-p.least)*(plotHeight-plotTop-plotBottom)
}

// axes draws rules and what they stand for.
func (p *plot) axes() {
	for i := 0; ; i++ {
		v := p.least + float64(i)*p.step
		if v > p.most+p.step/2 {
			break
		}
		y := p.y(v)
		p.segment(plotLeft, y, plotWidth-plotRight, y, rule, 1)
		text := strconv.FormatFloat(math.Round(v/p.step)*p.step, 'g', 4, 64)
		p.text(text, plotLeft-8-textWidth(text), int(y)-glyphHeight)
	}
	across := max(1, roundStep(p.last/8))
	for v := 0.0; v <= p.last; v += across {
		x := p.x(v)
		p.segment(x, plotHeight-plotBottom, x, plotHeight-plotBottom+5, ink, 1)
		text := strconv.FormatFloat(v, 'f', 0, 64)
		p.text(text, int(x)-textWidth(text)/2, plotHeight-plotBottom+10)
	}
	p.segment(plotLeft, plotTop, plotLeft, plotHeight-plotBottom, ink, 1)
	p.segment(plotLeft, plotHeight-plotBottom, plotWidth-plotRight, plotHeight-plotBottom, ink, 1)
}

// line joins points.
func (p *plot) line(steps, losses []float64, c color.RGBA, width int) {
	for i := 1; i < len(steps); i++ {
		if finite(losses[i-1]) && finite(losses[i]) {
			p.segment(p.x(steps[i-1]), p.y(losses[i-1]), p.x(steps[i]), p.y(losses[i]), c, width)
		}
	}
}

// segment draws a line of a width in pixels, dot by dot.
func (p *plot) segment(x0, y0, x1, y1 float64, c color.RGBA, width int) {
	n := int(max(math.Abs(x1-x0), math.Abs(y1-y0))) + 1
	for i := 0; i <= n; i++ {
		t := float64(i) / float64(n)
		p.dot(x0+t*(x1-x0), y0+t*(y1-y0), c, width-1)
	}
}

// dot fills a square around a point that reaches size/2 pixels each way.
func (p *plot) dot(x, y float64, c color.RGBA, size int) {
	left, top := int(math.Round(x))-size/2, int(math.Round(y))-size/2
	for i := 0; i <= size; i++ {
		for j := 0; j <= size; j++ {
			p.img.SetRGBA(left+i, top+j, c)
		}
	}
}

// Glyphs are 5 pixels wide and 7 high, drawn twice as large; each byte is a row,
// the leftmost pixel in bit 4.
const (
	glyphScale  = 2
	glyphWidth  = 6 * glyphScale
	glyphHeight = 7 * glyphScale / 2
)

var glyphs = map[rune][7]byte{
	'0': {0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e},
	'1': {0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e},
	'2': {0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f},
	'3': {0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e},
	'4': {0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02},
	'5': {0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e},
	'6': {0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e},
	'7': {0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08},
	'8': {0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e},
	'9': {0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c},
	'.': {0, 0, 0, 0, 0, 0x0c, 0x0c},
	'-': {0, 0, 0, 0x1f, 0, 0, 0},
	'+': {0, 0x04, 0x04, 0x1f, 0x04, 0x04, 0},
	'e': {0, 0, 0x0e, 0x11, 0x1f, 0x10, 0x0e},
}

func textWidth(s string) int { return len(s) * glyphWidth }

// text draws a number with its top left corner at a pixel.
func (p *plot) text(s string, x, y int) {
	for _, r := range s {
		for row, bits := range glyphs[r] {
			for column := range 5 {
				if bits>>(4-column)&1 == 1 {
					p.dot(float64(x+column*glyphScale), float64(y+row*glyphScale), ink, glyphScale-1)
				}
			}
		}
		x += glyphWidth
	}
}
