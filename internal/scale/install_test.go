package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall: files are there before kwok starts, its access for its user alone, and it is waited for until kwok answers.
func TestInstall(t *testing.T) {
	program := filepath.Join(t.TempDir(), "kwok")
	if err := os.WriteFile(program, []byte("BINARY"), 0o600); err != nil {
		t.Fatal(err)
	}
	var done []string
	content, modes, stops, asked := map[string]string{}, map[string]string{}, map[string]string{}, 0
	err := Install(t.Context(), lab(), Access{[]byte("CONFIG"), "TOKEN"}, program, func(_ context.Context, argv []string, in io.Reader, out io.Writer) error {
		switch {
		case argv[0] == "sh" && len(argv) == 7:
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			content[argv[4]], modes[argv[4]], stops[argv[4]] = string(text), argv[5], argv[6]
			done = append(done, argv[4])
		case argv[0] == "sh":
			if asked++; asked < 2 {
				return errors.New("connection refused")
			}
			_, err := io.WriteString(out, "HTTP/1.0 200 OK\r\n\r\nok")
			return err
		default:
			done = append(done, strings.Join(argv, " "))
		}
		return nil
	})
	if err != nil || asked != 2 {
		t.Fatalf("%v, asked %d times", err, asked)
	}
	if want := []string{Program, Token, Config, Kubeconfig, UnitFile, "systemctl daemon-reload", "systemctl enable " + Unit, "systemctl start " + Unit}; !slices.Equal(done, want) {
		t.Errorf("%q", done)
	}
	if content[Program] != "BINARY" || content[Kubeconfig] != "CONFIG" || content[Token] != "TOKEN" || content[UnitFile] != unit(lab()) || modes[Kubeconfig] != "600" || modes[Token] != "600" || modes[Program] != "755" {
		t.Errorf("%v, %v", modes, content)
	}
	for path := range content {
		if (stops[path] == Unit) != (path != Token) {
			t.Errorf("%s: what it changes does not stop %q", path, stops[path])
		}
	}
	failing := errors.New("no space left")
	if err := Install(t.Context(), lab(), Access{}, program, func(context.Context, []string, io.Reader, io.Writer) error { return failing }); !errors.Is(err, failing) || !strings.Contains(err.Error(), Program) {
		t.Errorf("%v", err)
	}
}

// TestPutFile: kwok does not run with a file that has changed, and goes on running with one that has not.
func TestPutFile(t *testing.T) {
	dir := t.TempDir()
	file, log := filepath.Join(dir, "etc", "file"), filepath.Join(dir, "log")
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\necho \"$@\" >>"+log+"; exit 5\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ content, mode, unit, said string }{
		{"one", "600", "x.service", "stop x.service\n"}, {"one", "600", "x.service", ""}, {"two", "755", "x.service", "stop x.service\n"}, {"three", "600", "", ""},
	} {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", putFile, "put", file, c.mode, c.unit)
		cmd.Stdin, cmd.Env = strings.NewReader(c.content), append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		said, err := os.ReadFile(log)
		if err != nil || string(said) != c.said {
			t.Errorf("%+v: it said %q, %v", c, said, err)
		}
		content, err := os.ReadFile(file)
		info, failed := os.Stat(file)
		if err != nil || failed != nil || string(content) != c.content || fmt.Sprintf("%o", info.Mode().Perm()) != c.mode {
			t.Errorf("%+v: %q, %v, %v", c, content, info, errors.Join(err, failed))
		}
	}
}
