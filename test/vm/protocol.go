package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// portName is the name of the virtio port on which the machine reports. What it writes there is in a file of this computer as soon as it is written.
const portName = "quorate.test"

// event is one line that the machine reports.
type event struct {
	Kind eventKind `json:"kind"`
	// Step is the step that begins or has ended.
	Step string `json:"step,omitempty"`
	// Text is a line of output, without its line break; or, in a hello, the kernel and the system.
	Text string `json:"text,omitempty"`
	// Error is why a step failed. Empty: it succeeded.
	Error string `json:"error,omitempty"`
	// Elapsed is how long a step took by the clock of the machine, which can be slower than that of this computer.
	Elapsed time.Duration `json:"elapsedNanoseconds,omitempty"`
}

type eventKind string

// A machine says hello, and then for each step that it is in progress, what it prints, and that it has ended. No step begins after one
// that failed. At last it says that it has finished, and turns itself off.
const (
	kindHello    eventKind = "hello"
	kindBegin    eventKind = "begin"
	kindOutput   eventKind = "output"
	kindEnd      eventKind = "end"
	kindFinished eventKind = "finished"
)

// step is one part of the test. They run in this order.
type step struct {
	name string
	// limit is how long it may take on a computer that is not emulated.
	limit time.Duration
	run   func(*guest) error
}

var steps = []step{
	{"up", 10 * time.Minute, (*guest).up},
	{"status", 5 * time.Minute, (*guest).status},
	{"power-off", 5 * time.Minute, (*guest).powerOff},
	{"power-on", 5 * time.Minute, (*guest).powerOn},
	{"down", 2 * time.Minute, (*guest).down},
}

// bootLimit is how long a machine may take until it says hello, and between two steps.
const bootLimit = 90 * time.Second

func limitOf(name string) time.Duration {
	for _, s := range steps {
		if s.name == name {
			return s.limit
		}
	}
	return bootLimit
}

// report reads what a machine has reported, while more is being added.
type report struct {
	file *os.File
	in   *bufio.Reader
	// begun is a line of which the end is not there yet.
	begun []byte
}

func openReport(path string) (*report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &report{file: f, in: bufio.NewReader(f)}, nil
}

func (r *report) Close() error { return r.file.Close() }

// more returns the events that were added since the last call.
func (r *report) more() ([]event, error) {
	var all []event
	for {
		part, err := r.in.ReadBytes('\n')
		r.begun = append(r.begun, part...)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		var e event
		if err := json.Unmarshal(r.begun, &e); err != nil {
			return all, fmt.Errorf("the machine reported %q: %w", r.begun, err)
		}
		all, r.begun = append(all, e), nil
	}
}
