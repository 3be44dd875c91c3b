package distill

import (
	"bytes"
	"image/color"
	"image/png"
	"math"
	"os"
	"strings"
	"testing"
)

func TestSparkline(t *testing.T) {
	for want, values := range map[string][]float64{
		"":         nil,
		"▁":        {3},
		"█▄▁":      {3, 2, 1},
		"▁▂▃▄▅▆▇█": {0, 1, 2, 3, 4, 5, 6, 7},
		"▁▁▁▁▁▁▁█": {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1},
	} {
		if got := Sparkline(values, 8); got != want {
			t.Errorf("%v is drawn as %s, want %s", values, got, want)
		}
	}
}

func exampleCurve() ([]Point, []Evaluation) {
	var curve []Point
	for i := range 200 {
		curve = append(curve, Point{Step: i + 1, Loss: 2 + 3*math.Exp(-float64(i)/40) + 0.2*math.Sin(float64(i*i))})
	}
	return curve, []Evaluation{{0, 5}, {100, 2.6}, {200, 2.4}}
}

func TestWriteCSV(t *testing.T) {
	var out strings.Builder
	curve := []Point{{Step: 1, Loss: 2.5, Divergence: 2, CrossEntropy: 3, Rate: 1e-3, Norm: 0.5}, {Step: 2, Loss: 2}}
	if err := WriteCSV(&out, curve, []Evaluation{{0, 4}, {2, 3.25}}); err != nil {
		t.Fatal(err)
	}
	const want = `step,loss,divergence,cross_entropy,learning_rate,gradient_norm,held_out_nll
0,,,,,,4
1,2.5,2,3,0.001,0.5,
2,2,0,0,0,0,3.25
`
	if out.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", out.String(), want)
	}
}

// TestWritePNG looks for the curves' colours where the curves are.
func TestWritePNG(t *testing.T) {
	curve, evaluations := exampleCurve()
	var out bytes.Buffer
	if err := WritePNG(&out, curve, evaluations); err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("LLMC_PLOT"); path != "" {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img, err := png.Decode(&out)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlot(curve, evaluations)
	for _, e := range evaluations {
		x, y := int(math.Round(p.x(float64(e.Step)))), int(math.Round(p.y(e.NLL)))
		if got := color.RGBAModel.Convert(img.At(x, y)); got != held {
			t.Errorf("the evaluation of step %d is %v at %d, %d", e.Step, got, x, y)
		}
	}
	for _, few := range [][]Point{nil, curve[:1], {{Step: 1, Loss: math.NaN()}, {Step: 2, Loss: 1}}} {
		if err := WritePNG(&out, few, nil); err != nil {
			t.Errorf("%v: %v", few, err)
		}
	}
}
