package scale

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall: files are there before kwok starts, the kubeconfig for its user alone, and it is waited for until kwok answers.
func TestInstall(t *testing.T) {
	program := filepath.Join(t.TempDir(), "kwok")
	if err := os.WriteFile(program, []byte("BINARY"), 0o600); err != nil {
		t.Fatal(err)
	}
	var done []string
	content, modes, asked := map[string]string{}, map[string]string{}, 0
	err := Install(t.Context(), lab(), []byte("TOKEN"), program, func(_ context.Context, argv []string, in io.Reader, out io.Writer) error {
		switch {
		case argv[0] == "sh" && len(argv) == 6:
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			content[argv[4]], modes[argv[4]] = string(text), argv[5]
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
	if want := []string{Program, Config, Kubeconfig, UnitFile, "systemctl daemon-reload", "systemctl enable " + Unit, "systemctl restart " + Unit}; !slices.Equal(done, want) {
		t.Errorf("%q", done)
	}
	if content[Program] != "BINARY" || content[Kubeconfig] != "TOKEN" || content[UnitFile] != unit(lab()) || modes[Kubeconfig] != "600" || modes[Program] != "755" {
		t.Errorf("%v, %v", modes, content)
	}
	failing := errors.New("no space left")
	if err := Install(t.Context(), lab(), nil, program, func(context.Context, []string, io.Reader, io.Writer) error { return failing }); !errors.Is(err, failing) || !strings.Contains(err.Error(), Program) {
		t.Errorf("%v", err)
	}
}
