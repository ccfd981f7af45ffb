package drillpods

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readAll reads everything from where it ended before, and moves that on.
func readAll(t *testing.T, d directory, from map[string]int64, limit int64) (out string, replies int) {
	t.Helper()
	for more := true; more; replies++ {
		logs, err := d.read(from, limit)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, p := range logs.Parts {
			if !LogFile.MatchString(p.File) {
				t.Errorf("a file %q", p.File)
			}
			out += string(p.Data)
			from[p.File] += int64(len(p.Data))
			size += len(p.Data)
		}
		if int64(size) > limit || time.Since(logs.Now) > time.Minute {
			t.Errorf("%d bytes at %s", size, logs.Now)
		}
		if more = logs.More; more && size == 0 {
			t.Fatal("there is more, and nothing comes")
		}
	}
	return out, replies
}

// TestRead reads files that grow, in parts.
func TestRead(t *testing.T) {
	d := directory(filepath.Join(t.TempDir(), "drill"))
	if _, err := d.read(nil, 100); !os.IsNotExist(err) {
		t.Errorf("a host without clients: %v", err)
	}
	if err := d.put([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(d.logs(), name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	first, second := LogName(time.Unix(1000, 0)), LogName(time.Unix(2000, 0))
	from := map[string]int64{}
	if got, _ := readAll(t, d, from, 100); got != "" {
		t.Errorf("nothing was logged: %q", got)
	}
	write(first, "one\ntw")
	if got, _ := readAll(t, d, from, 100); got != "one\n" {
		t.Errorf("a line that is being written: %q", got)
	}
	write(first, "o\n")
	write(second, "three\nfour\nfi")
	write("other.txt", "no\n")
	if got, n := readAll(t, d, from, 8); got != "two\nthree\nfour\n" || n < 3 {
		t.Errorf("%q in %d replies", got, n)
	}
	if got, _ := readAll(t, d, from, 100); got != "" {
		t.Errorf("what was read is read again: %q", got)
	}
	os.Remove(filepath.Join(d.logs(), first))
	write(second, "ve\n")
	if got, _ := readAll(t, d, from, 100); got != "five\n" {
		t.Errorf("after a file was removed: %q", got)
	}
	if err := d.put([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if got, _ := readAll(t, d, map[string]int64{}, 100); got != "" {
		t.Errorf("what earlier clients logged: %q", got)
	}
}

// TestAbandoned: who reads is alive.
func TestAbandoned(t *testing.T) {
	d := directory(filepath.Join(t.TempDir(), "drill"))
	if !d.abandoned(time.Hour) {
		t.Error("there is nothing to do, and clients run")
	}
	if err := d.put([]byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(d.clients(), old, old); err != nil {
		t.Fatal(err)
	}
	if !d.abandoned(time.Hour) {
		t.Error("nobody has read for two hours")
	}
	if _, err := d.read(nil, 100); err != nil || d.abandoned(time.Hour) {
		t.Errorf("somebody reads, %v", err)
	}
}

// TestWriter: files are bounded, and lines are whole.
func TestWriter(t *testing.T) {
	w := &Writer{dir: t.TempDir(), size: 100, files: 3}
	if err := w.begin(); err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		line := fmt.Sprintf("line %02d %s\n", n, strings.Repeat("x", 30))
		if _, err := w.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	var all []byte
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(w.dir, e.Name()))
		if err != nil || !LogFile.MatchString(e.Name()) || !bytes.HasSuffix(data, []byte("\n")) || len(data) > 150 {
			t.Errorf("%s has %d bytes, %v", e.Name(), len(data), err)
		}
		all = append(all, data...)
	}
	if !bytes.HasSuffix(all, []byte("\n")) || !bytes.Contains(all, []byte("line 49")) || bytes.Contains(all, []byte("line 00")) {
		t.Errorf("the last lines are kept: %s", all)
	}
}
