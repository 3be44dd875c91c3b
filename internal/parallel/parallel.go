// Package parallel visits the rows of a matrix on several threads.
package parallel

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// perTask is how many elements a worker takes at a time, at least a row.
const perTask = 1 << 16

// Rows visits the rows 0 to rows-1 of a matrix of cols columns, some rows at a
// time on each of threads threads (0 means one per core), and returns the first
// error, or the context's. worker is called for every run of rows and returns
// what visits one of them, so that scratch memory can belong to the run. Rows
// must not depend on each other.
func Rows(ctx context.Context, threads, rows, cols int, worker func() func(r int) error) error {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(threads)
	step := max(1, perTask/max(cols, 1))
	for start := 0; start < rows && running.Err() == nil; start += step {
		group.Go(func() error {
			visit := worker()
			for r := start; r < min(start+step, rows); r++ {
				if err := running.Err(); err != nil {
					return err
				}
				if err := visit(r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
