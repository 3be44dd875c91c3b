package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// ui is what commands talk to the user through: results go to out, progress
// and messages to err. With json set, out carries one document and nothing
// else; with quiet set, err carries errors only.
type ui struct {
	out, err io.Writer
	json     bool
	quiet    bool
	terminal bool // err is a terminal: progress is a bar, not lines

	bar    *progressbar.ProgressBar
	stage  string
	detail string    // on the bar
	next   time.Time // when the next plain progress line is due
	start  time.Time
}

func newUI(stdout, stderr *os.File) *ui {
	return &ui{out: stdout, err: stderr, terminal: term.IsTerminal(int(stderr.Fd()))}
}

// note prints a message for people on stderr.
func (u *ui) note(format string, args ...any) {
	if u.quiet {
		return
	}
	u.clearProgress()
	fmt.Fprintf(u.err, format+"\n", args...)
}

// warn prints a message on stderr that people should not miss.
func (u *ui) warn(format string, args ...any) { u.note("warning: "+format, args...) }

// print writes a line of results, unless results are JSON.
func (u *ui) print(format string, args ...any) {
	if u.json {
		return
	}
	u.clearProgress()
	fmt.Fprintf(u.out, format+"\n", args...)
}

// document writes the JSON document of a run to stdout when --json was given.
func (u *ui) document(v any) error {
	if !u.json {
		return nil
	}
	enc := json.NewEncoder(u.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows under a header, unless results are JSON. Columns named in
// left are left-aligned, the others are numbers and stand right.
func (u *ui) table(header []string, rows [][]string, left ...int) error {
	if u.json {
		return nil
	}
	u.clearProgress()
	aligns := make([]tw.Align, len(header))
	for i := range aligns {
		aligns[i] = tw.AlignRight
	}
	for _, i := range left {
		aligns[i] = tw.AlignLeft
	}
	alignment := tw.CellAlignment{Global: tw.AlignRight, PerColumn: aligns}
	var text strings.Builder
	t := tablewriter.NewTable(&text,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders: tw.BorderNone,
			Symbols: tw.NewSymbols(tw.StyleLight),
			Settings: tw.Settings{
				Separators: tw.Separators{BetweenColumns: tw.Off, BetweenRows: tw.Off},
				Lines:      tw.Lines{ShowHeaderLine: tw.On},
			},
		})),
		tablewriter.WithConfig(tablewriter.Config{
			Header: tw.CellConfig{
				Formatting: tw.CellFormatting{AutoFormat: tw.Off, AutoWrap: tw.WrapNone},
				Alignment:  alignment,
				Padding:    tw.CellPadding{Global: tw.Padding{Left: "", Right: "  ", Overwrite: true}},
			},
			Row: tw.CellConfig{
				Formatting: tw.CellFormatting{AutoWrap: tw.WrapNone},
				Alignment:  alignment,
				Padding:    tw.CellPadding{Global: tw.Padding{Left: "", Right: "  ", Overwrite: true}},
			},
		}),
	)
	t.Header(header)
	if err := t.Bulk(rows); err != nil {
		return fmt.Errorf("cannot lay out the table: %w", err)
	}
	if err := t.Render(); err != nil {
		return fmt.Errorf("cannot lay out the table: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(u.out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// plainInterval is how often progress is a line when stderr is no terminal.
const plainInterval = 10 * time.Second

// progress is the callback that libraries report through. A new stage starts
// a new bar; done reaching total ends it.
func (u *ui) progress(stage string, done, total int64) { u.progressAt(stage, "", done, total) }

// progressAt is progress with what is being worked on.
func (u *ui) progressAt(stage, detail string, done, total int64) {
	if u.quiet {
		return
	}
	if stage != u.stage {
		u.closeProgress()
		u.stage, u.start = stage, time.Now()
		u.next = u.start.Add(plainInterval)
		if u.terminal {
			u.bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(u.err),
				progressbar.OptionSetDescription(stage),
				progressbar.OptionSetWidth(30),
				progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionSetPredictTime(true),
				progressbar.OptionClearOnFinish(),
			)
		}
	}
	if u.bar != nil {
		if detail != "" && detail != u.detail {
			u.bar.Describe(stage + ", " + detail)
			u.detail = detail
		}
		u.bar.ChangeMax64(total)
		_ = u.bar.Set64(done) // a bar that cannot be drawn is no reason to stop
		return
	}
	if now := time.Now(); !u.terminal && now.After(u.next) && done > 0 && done < total {
		u.next = now.Add(plainInterval)
		spent := now.Sub(u.start)
		left := time.Duration(float64(spent) / float64(done) * float64(total-done))
		if detail != "" {
			stage += ", " + detail
		}
		fmt.Fprintf(u.err, "%s: %d%%, %s left\n", stage, int(100*float64(done)/float64(total)), left.Round(time.Second))
	}
}

func (u *ui) clearProgress() {
	if u.bar != nil {
		_ = u.bar.Clear()
	}
}

func (u *ui) closeProgress() {
	u.clearProgress()
	u.bar, u.stage, u.detail = nil, "", ""
}

// bytesString writes a size for people: 1.44 MB, 269 MB.
func bytesString(n int64) string {
	const unit = 1000.0
	v := float64(n)
	for _, suffix := range []string{"B", "KB", "MB", "GB"} {
		if v < unit {
			if suffix == "B" || v >= 100 {
				return fmt.Sprintf("%.0f %s", v, suffix)
			}
			return fmt.Sprintf("%.3g %s", v, suffix)
		}
		v /= unit
	}
	return fmt.Sprintf("%.3g TB", v)
}

// countString writes a number of parameters for people: 135M, 1.1B.
func countString(n int64) string {
	v := float64(n)
	for _, suffix := range []string{"", "K", "M"} {
		if v < 1000 {
			if suffix == "" || v >= 100 {
				return fmt.Sprintf("%.0f%s", v, suffix)
			}
			return fmt.Sprintf("%.3g%s", v, suffix)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.3gB", v)
}
