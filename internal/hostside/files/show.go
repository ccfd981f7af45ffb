package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"quorate.dev/quorate/internal/confidential"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// Show returns the contents of files by the keys of facts.File, for a diff. A file that does not exist has no entry. What may
// contain a secret does not leave the host.
var Show = host.Define("node.show-files", func(ctx context.Context, keys []string) (map[string]facts.Shown, error) {
	out := map[string]facts.Shown{}
	for _, key := range keys {
		shown, err := show(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			shown.Withheld = "it could not be read: " + err.Error()
		}
		out[key] = shown
	}
	return out, ctx.Err()
}, host.Reads)

func show(key string) (facts.Shown, error) {
	path, block, isBlock := strings.Cut(key, "#")
	if reason := confidential.Reason(path, ""); reason != "" {
		return facts.Shown{Withheld: reason}, nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return facts.Shown{}, err
	case !info.Mode().IsRegular():
		return facts.Shown{Withheld: "it is not a regular file"}, nil
	case info.Size() > facts.MaxShown:
		return facts.Shown{Withheld: fmt.Sprintf("it has more than %d KiB", facts.MaxShown>>10)}, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return facts.Shown{}, err
	}
	if isBlock {
		_, content, _, ok := findBlock(data, block)
		if !ok {
			return facts.Shown{}, fs.ErrNotExist
		}
		data = content
	}
	text := string(data)
	switch reason := confidential.Reason(path, text); {
	case reason != "":
		return facts.Shown{Withheld: reason}, nil
	case !printable(text):
		return facts.Shown{Withheld: "it is not a text file"}, nil
	}
	return facts.Shown{Content: text}, nil
}

// printable says that text has nothing in it that a terminal could take for a command.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && r != '\r' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
	})
}
