package cli

import (
	"fmt"
	"io"
	"os"

	"quorate.dev/quorate/internal/durable"
)

// output is where results are printed. It remembers the first error, because many callers print line by line and look at none: a
// command whose result did not arrive has not succeeded.
type output struct {
	io.Writer
	err error
}

// Write keeps the error.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
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
