package parallel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestRowsVisitsEveryRowOnce(t *testing.T) {
	for _, threads := range []int{0, 1, 3} {
		for _, shape := range [][2]int{{0, 5}, {1, 0}, {7, 1}, {300, 1000}, {3, 1 << 17}} {
			seen := make([]atomic.Int32, shape[0])
			err := Rows(context.Background(), threads, shape[0], shape[1], func() func(int) error {
				return func(r int) error { seen[r].Add(1); return nil }
			})
			if err != nil {
				t.Fatal(err)
			}
			for r := range seen {
				if n := seen[r].Load(); n != 1 {
					t.Fatalf("%d threads, %v: row %d was visited %d times", threads, shape, r, n)
				}
			}
		}
	}
}

func TestRowsStops(t *testing.T) {
	stop := errors.New("row 9")
	err := Rows(context.Background(), 2, 1000, 1<<16, func() func(int) error {
		return func(r int) error {
			if r == 9 {
				return stop
			}
			return nil
		}
	})
	if err != stop {
		t.Errorf("the error is %v, want %v", err, stop)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = Rows(ctx, 2, 10, 10, func() func(int) error { return func(int) error { return nil } })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want that of the context", err)
	}
}
