package eval

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"llmc/formats"
	"llmc/internal/tinymodel"
	"llmc/kernels"
)

// TestThreadsOfModel: a real forward pass gives the same report, to the last
// bit, whatever the number of threads, and a model against itself does not
// differ.
func TestThreadsOfModel(t *testing.T) {
	c, err := formats.FromMemory(tinymodel.Files(tinymodel.Spec{}))
	if err != nil {
		t.Fatal(err)
	}
	text := StringText("text", strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 20))
	var reports []*Report
	for _, threads := range []int{1, 3} {
		var subjects []*Subject
		for range 2 {
			s, err := Load(kernels.NewCPU(threads), c, "tiny")
			if err != nil {
				t.Fatal(err)
			}
			subjects = append(subjects, s)
		}
		report, err := Run(context.Background(), subjects, text, Options{Context: 64, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		report.PeakRSSBytes, report.Device = 0, ""
		reports = append(reports, report)
	}
	if !reflect.DeepEqual(reports[0], reports[1]) {
		t.Errorf("%+v with one thread, %+v with three", reports[0], reports[1])
	}
	vs := reports[0].Models[1].VsBaseline
	want := Comparison{PerplexityRatio: 1, Top1Agreement: 1, SizeRatio: 1}
	if *vs != want {
		t.Errorf("a model against itself: %+v, want %+v", *vs, want)
	}
}

// TestWeightsThatAreNotNumbers: the error names the tensor.
func TestWeightsThatAreNotNumbers(t *testing.T) {
	tensors := tinymodel.Tensors(tinymodel.Spec{})
	for i := range tensors {
		if tensors[i].Name == "model.layers.1.mlp.up_proj.weight" {
			tensors[i].Data[1], tensors[i].Data[0] = 0x7f, 0xc0 // a NaN
		}
	}
	files := tinymodel.Files(tinymodel.Spec{})
	files["model.safetensors"] = tinymodel.SafeTensors(tensors)
	c, err := formats.FromMemory(files)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(kernels.NewCPU(0), c, "tiny")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Run(context.Background(), []*Subject{s}, StringText("text", strings.Repeat("abcd", 20)), Options{Context: 16})
	if err == nil || !strings.Contains(err.Error(), "model.layers.1.mlp.up_proj.weight") ||
		!strings.Contains(err.Error(), "at token 8 of the text") {
		t.Errorf("error %v, want one that names the tensor and the token", err)
	}
}

// TestRoundedCaches: a model with a rounded cache shares the weights of the one
// without, and neither sees what the other keeps.
func TestRoundedCaches(t *testing.T) {
	c, err := formats.FromMemory(tinymodel.Files(tinymodel.Spec{}))
	if err != nil {
		t.Fatal(err)
	}
	text := StringText("text", strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 20))
	s, err := Load(kernels.NewCPU(2), c, "tiny")
	if err != nil {
		t.Fatal(err)
	}
	measure := func(subjects ...*Subject) []ModelReport {
		report, err := Run(context.Background(), subjects, text, Options{Context: 64})
		if err != nil {
			t.Fatal(err)
		}
		return report.Models
	}
	alone := measure(s)[0]
	all := measure(s, s.WithCache(8), s.WithCache(4), s.WithCache(0))
	if all[0].NLL != alone.NLL {
		t.Errorf("nll %v beside others, %v alone", all[0].NLL, alone.NLL)
	}
	for i, bits := range []int{0, 8, 4, 0} {
		if all[i].KVBits != bits {
			t.Errorf("report %d says %d bits, want %d", i, all[i].KVBits, bits)
		}
	}
	if k8, k4 := all[1].VsBaseline.KLMean, all[2].VsBaseline.KLMean; !(k8 > 0 && k4 > 4*k8) {
		t.Errorf("divergence %g at 8 bits, %g at 4", k8, k4)
	}
	if kl := all[3].VsBaseline.KLMean; kl != 0 {
		t.Errorf("divergence %g with an exact cache", kl)
	}
}
