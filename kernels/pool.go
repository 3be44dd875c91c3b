package kernels

import (
	"runtime"
	"sync/atomic"
)

// task is work that falls into parts which write different memory, so that
// the result does not depend on which worker runs a part, or when.
type task interface {
	// run does one part. worker is below the number of threads and is not
	// shared with another part at the same time.
	run(worker, part int)
}

// pool runs the parts of a task on some threads: the caller's and workers
// that wait for the next task, at first spinning for the microseconds between
// two products, then asleep. One goroutine at a time may call run.
type pool struct {
	threads int
	current task
	parts   int // of the current task
	// state is the serial number of the task in the upper half and how many of
	// its parts nobody has taken yet in the lower. A part is taken by a
	// compare-and-swap of the whole, so that a worker that comes late cannot
	// take a part of a task it has not seen.
	state   atomic.Uint64
	pending atomic.Int64 // parts that are not finished
	workers []*worker
	// asleep says that the caller waits for a message of the worker that finishes
	// the last part, which clears it and sends one.
	asleep atomic.Bool
	done   chan struct{}
	closed atomic.Bool
}

type worker struct {
	asleep atomic.Bool
	wake   chan struct{}
}

// rouse wakes the worker, or makes it not fall asleep the next time.
func (w *worker) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

const (
	partBits  = 32
	partMask  = 1<<partBits - 1
	spinTries = 100000 // some 50 microseconds: more than lies between two products of a decoded token
)

// newPool starts threads-1 workers; threads <= 0 means GOMAXPROCS.
func newPool(threads int) *pool {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	p := &pool{threads: threads, done: make(chan struct{}, 1)}
	for i := 1; i < threads; i++ {
		w := &worker{wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		go p.work(w, i)
	}
	return p
}

// close ends the workers once they are idle, and returns false when it has been
// called before. The pool must not be used again.
func (p *pool) close() bool {
	if p.closed.Swap(true) {
		return false
	}
	for _, w := range p.workers {
		w.rouse()
	}
	return true
}

// run calls t.run for every part from 0 to parts-1 and returns when all are
// done.
func (p *pool) run(parts int, t task) {
	if parts <= 0 {
		return
	}
	if parts == 1 || len(p.workers) == 0 {
		for i := range parts {
			t.run(0, i)
		}
		return
	}
	p.current, p.parts = t, parts
	p.pending.Store(int64(parts))
	serial := p.state.Load()>>partBits + 1
	p.state.Store(serial<<partBits | uint64(parts))
	for _, w := range p.workers[:min(len(p.workers), parts-1)] {
		if w.asleep.Load() {
			w.rouse()
		}
	}
	if !p.take(0) {
		p.wait()
	}
	p.current = nil
}

// wait returns when no part is left to be finished: at first it spins, since
// falling asleep and being woken takes longer than most parts.
func (p *pool) wait() {
	for range spinTries {
		if p.pending.Load() == 0 {
			return
		}
	}
	// A worker that finished the last task may only now find that somebody
	// waits, for another task; hence the loop.
	for p.pending.Load() != 0 {
		p.asleep.Store(true)
		if p.pending.Load() == 0 && p.asleep.CompareAndSwap(true, false) {
			return
		}
		<-p.done
	}
}

// take runs parts until none is left and reports whether it finished the last
// one of the task.
func (p *pool) take(id int) (last bool) {
	for {
		s := p.state.Load()
		left := s & partMask
		if left == 0 {
			return last
		}
		if !p.state.CompareAndSwap(s, s-1) {
			continue
		}
		// The task cannot change before this part is counted as finished.
		p.current.run(id, p.parts-int(left))
		last = p.pending.Add(-1) == 0
	}
}

// work is the life of a worker: it takes parts while there are any, looks for
// a new task for a short time, and then sleeps until it is woken.
func (p *pool) work(w *worker, id int) {
	for {
		if p.take(id) && p.asleep.CompareAndSwap(true, false) {
			p.done <- struct{}{}
		}
		if p.soon() {
			continue
		}
		w.asleep.Store(true)
		// A task that began before asleep was set did not wake this worker.
		if p.state.Load()&partMask == 0 {
			<-w.wake
		}
		w.asleep.Store(false)
		if p.closed.Load() {
			return
		}
	}
}

// soon spins until a task has parts left, and gives up after a while.
func (p *pool) soon() bool {
	for range spinTries {
		if p.state.Load()&partMask != 0 {
			return true
		}
	}
	return false
}
