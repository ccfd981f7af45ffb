package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/durable"
)

// output is where results are printed. It remembers the first error, because many callers print line by line and look at none: a
// command whose result did not arrive has not succeeded.
type output struct {
	io.Writer
	err error
	// goesOn says that the command does what it has begun, whatever becomes of its output: no caller learns of an error. If the reader has ended, which it
	// may, as a pager does, there is none.
	goesOn bool
}

// Write keeps the error.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err == nil || o.goesOn && errors.Is(err, syscall.EPIPE) {
		return len(p), nil
	}
	if o.err == nil {
		o.err = err
	}
	if o.goesOn {
		return len(p), nil
	}
	return n, err
}

// outlivesReader has a command that may change something go on when whoever reads its output or its progress has ended. Without this, SIGPIPE ends the
// process, which is what users expect of a command that only reads.
func (o *output) outlivesReader() {
	o.goesOn = true
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// readsAnnotation marks commands that only read.
const readsAnnotation = "reads"

// reads says that a command changes nothing that lasts: it may end anywhere.
func reads(cmd *cobra.Command) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[readsAnnotation] = "yes"
	return cmd
}

// terminal is an output that may be a terminal.
type terminal struct {
	output
	fd interface{ Fd() uintptr }
}

// Fd is what tells the size of the terminal.
func (t *terminal) Fd() uintptr { return t.fd.Fd() }

// remembering returns a writer that remembers its first error, and is a terminal if w is one.
func remembering(w io.Writer) (io.Writer, *output) {
	if file, is := w.(interface{ Fd() uintptr }); is {
		t := &terminal{output{Writer: w}, file}
		return t, &t.output
	}
	o := &output{Writer: w}
	return o, o
}

// openFile opens a file that the user names.
func openFile(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usageError{err}
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, usageError{fmt.Errorf("%s is a directory, and not a file", name)}
	}
	return f, nil
}

// canWrite refuses result files that cannot be written, before the work begins. Empty names, and - for stdout, are skipped.
func (a *app) canWrite(files ...string) error {
	for _, file := range files {
		if file == "" || file == "-" {
			continue
		}
		if err := durable.CanUpdate(file); err != nil {
			return usageError{fmt.Errorf("the result cannot be written: %w; name another file", err)}
		}
	}
	return nil
}
