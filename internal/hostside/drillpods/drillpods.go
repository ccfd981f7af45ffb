// Package drillpods is the host's part of the clients that a drill runs in pods: what they are told, and what they log. Both are in one
// directory of the host that the pod mounts. So neither the API nor the pod has to work when somebody reads what clients experienced, and what they
// logged survives the pod and a power cut.
package drillpods

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

const (
	// ClientsFile is what the clients are told. Its time is when somebody last read what they logged.
	ClientsFile = facts.DrillDir + "/clients.json"
	// LogDir is where they log: one file after the other, named by the time at which it was begun, with one line of JSON for each client and
	// second.
	LogDir = facts.DrillDir + "/logs"
	// readLimit is how many bytes one call reads.
	readLimit = 4 << 20
)

// LogFile matches the names of files in LogDir. Whoever receives a name from a host compares it.
var LogFile = regexp.MustCompile(`^[0-9]{19}\.jsonl$`)

// LogName names a file that is begun at a moment. Names sort by time.
func LogName(begun time.Time) string { return fmt.Sprintf("%019d.jsonl", begun.UnixNano()) }

// Put tells the clients of a host what to do, and removes what earlier ones have logged. The content is theirs: see package clients.
var Put = host.Define("drill.put-clients", func(_ context.Context, content json.RawMessage) (struct{}, error) {
	return struct{}{}, directory(facts.DrillDir).put(content)
})

// Read reads what the clients of a host have logged. Their caller is known to be alive by that; see Abandoned. So it is not an operation
// that only reads.
var Read = host.Define("drill.read-logs", func(_ context.Context, in ReadRequest) (Logs, error) {
	return directory(facts.DrillDir).read(in.From, readLimit)
})

// Remove removes everything from the host that Put and the clients have written.
var Remove = host.Define("drill.remove-clients", func(context.Context, struct{}) (struct{}, error) {
	return struct{}{}, os.RemoveAll(facts.DrillDir)
})

// ReadRequest says what was read before.
type ReadRequest struct {
	// From is how many bytes of each file were read.
	From map[string]int64 `json:"from"`
}

// Logs are what was logged since, in whole lines.
type Logs struct {
	Parts []Part `json:"parts"`
	// More says that there is more to read.
	More bool `json:"more,omitempty"`
	// Now is the time by the clock of the host, which is that of the logs.
	Now time.Time `json:"now"`
}

// Part is the next part of one file.
type Part struct {
	File string `json:"file"`
	Data []byte `json:"data"`
}

// Abandoned says that nobody has read for so long what the clients logged: whoever started them is gone, and they should end.
func Abandoned(after time.Duration) bool { return directory(facts.DrillDir).abandoned(after) }

// directory is facts.DrillDir, or another one in tests.
type directory string

func (d directory) clients() string { return filepath.Join(string(d), filepath.Base(ClientsFile)) }
func (d directory) logs() string    { return filepath.Join(string(d), filepath.Base(LogDir)) }

func (d directory) put(content []byte) error {
	if err := os.RemoveAll(d.logs()); err != nil {
		return err
	}
	if err := durable.MkdirAll(d.logs(), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(d.clients(), content, 0o600)
}

// read reads at most limit bytes, the oldest files first.
func (d directory) read(from map[string]int64, limit int64) (Logs, error) {
	out := Logs{Parts: []Part{}}
	entries, err := os.ReadDir(d.logs())
	if err != nil {
		return out, err
	}
	now := time.Now()
	if err := os.Chtimes(d.clients(), now, now); err != nil {
		return out, err
	}
	for _, e := range entries {
		if !LogFile.MatchString(e.Name()) {
			continue
		}
		if limit <= 0 {
			out.More = true
			break
		}
		data, more, err := readLines(filepath.Join(d.logs(), e.Name()), from[e.Name()], limit)
		switch {
		case os.IsNotExist(err): // the clients keep only the last ones
			continue
		case err != nil:
			return out, err
		}
		if len(data) > 0 {
			out.Parts = append(out.Parts, Part{e.Name(), data})
			limit -= int64(len(data))
		}
		if more {
			out.More = true
			break
		}
	}
	out.Now = time.Now()
	return out, nil
}

// readLines reads whole lines of a file, and says whether there may be more of them.
func readLines(path string, from, limit int64) (data []byte, more bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, false, err
	}
	data, err = io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, false, err
	}
	more = int64(len(data)) == limit
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	if more && len(data) == 0 && limit == readLimit {
		return nil, false, fmt.Errorf("%s has a line of more than %d bytes", path, limit)
	}
	return data, more, nil
}

func (d directory) abandoned(after time.Duration) bool {
	info, err := os.Stat(d.clients())
	return err != nil || time.Since(info.ModTime()) > after
}

// Writer writes logs into LogDir. When a file is large, it begins another one, and when there are many, it removes the oldest one: clients that
// nobody ends must not fill the disk.
type Writer struct {
	dir     string
	size    int64 // of a file
	files   int
	now     *os.File
	written int64
}

const (
	// fileSize and fileCount bound what the clients of a host log: half a day with the pace of a drill.
	fileSize  = 8 << 20
	fileCount = 16
)

// NewWriter begins a file. A container that is restarted does not overwrite what the former one has logged.
func NewWriter() (*Writer, error) {
	w := &Writer{dir: LogDir, size: fileSize, files: fileCount}
	return w, w.begin()
}

// Write writes whole lines.
func (w *Writer) Write(lines []byte) (int, error) {
	if w.written >= w.size {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	n, err := w.now.Write(lines)
	w.written += int64(n)
	return n, err
}

func (w *Writer) begin() error {
	if w.now != nil {
		if err := w.now.Close(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(w.dir, LogName(time.Now())), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.now, w.written = f, 0
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	for i := range max(0, len(entries)-w.files) {
		if LogFile.MatchString(entries[i].Name()) {
			if err := os.Remove(filepath.Join(w.dir, entries[i].Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close ends the last file.
func (w *Writer) Close() error { return w.now.Close() }
