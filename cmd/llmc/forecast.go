package main

import (
	"fmt"
	"time"

	"llmc/calibrate"
	"llmc/kernels"
	"llmc/quantize"
)

// forecast is what a calibrated run would take, for --dry-run.
type forecast struct {
	Memory      int64 `json:"memory_bytes"`       // resident, at the most
	LeastMemory int64 `json:"least_memory_bytes"` // that --max-memory can ask for
	Activations int64 `json:"activation_bytes"`
	OnDisk      bool  `json:"activations_on_disk"`
	Passes      int   `json:"passes"` // through a block, to gather its inputs
	// Disk is for finished blocks and activations, until the output is there.
	Disk  int64   `json:"disk_bytes"`
	Flops float64 `json:"flops"`
	// SearchFlops are those of them that a search for bits takes.
	SearchFlops float64 `json:"search_flops,omitempty"`
	Seconds     float64 `json:"seconds"` // at the speed of matrix products measured now
}

// newForecast says what a schedule takes, and the search before it, if there is
// one; kept is the size of finished blocks.
func newForecast(s *calibrate.Schedule, kept int64, search *quantize.Allocation, dev kernels.Device) *forecast {
	f := &forecast{
		Memory: s.Peak, LeastMemory: s.Least, Activations: s.Activations, OnDisk: s.OnDisk, Passes: s.Passes,
		Disk: kept, Flops: s.Flops,
	}
	if search != nil {
		f.Memory = max(f.Memory, search.Memory)
		f.SearchFlops = search.Operations
		f.Flops += f.SearchFlops
	}
	f.Seconds = f.Flops / productSpeed(dev)
	if s.OnDisk {
		f.Disk += s.Activations
	}
	return f
}

// productSpeed measures floating-point operations per second of a matrix
// product, for a fraction of a second.
func productSpeed(dev kernels.Device) float64 {
	const rows, size = 256, 1024
	w := dev.Load(kernels.FromFloat32s(size, size, make([]float32, size*size)))
	x, out := dev.NewTensor(rows, size), dev.NewTensor(rows, size)
	defer dev.Free(x)
	defer dev.Free(out)
	best := 0.0
	for begin := time.Now(); time.Since(begin) < 200*time.Millisecond; {
		start := time.Now()
		dev.MatMul(out, x, w)
		best = max(best, 2*rows*size*size/time.Since(start).Seconds())
	}
	return best
}

func (f *forecast) print(ui *ui) {
	where, passes := "in memory", ""
	if f.OnDisk {
		where = "on disk"
	}
	if f.Passes > 1 {
		passes = fmt.Sprintf(", the inputs of a block in %d passes", f.Passes)
	}
	ui.print("calibrating takes up to %s of memory, with %s of activations %s%s; --max-memory can bring it down to %s",
		bytesString(f.Memory), bytesString(f.Activations), where, passes, bytesString(f.LeastMemory))
	if f.Disk > 0 {
		ui.print("and %s of disk beside the output until that is whole", bytesString(f.Disk))
	}
	search := ""
	if f.SearchFlops > 0 {
		search = fmt.Sprintf(", %.0f%% of them for the search", 100*f.SearchFlops/f.Flops)
	}
	ui.print("and about %s here: %.3g floating-point operations%s", roughly(f.Seconds), f.Flops, search)
}

// roughly writes a time as exactly as an estimate is.
func roughly(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return "a second"
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f minutes", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f hours", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
