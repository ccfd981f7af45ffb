package inspect

import (
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/staticpod"
)

// staticPodFlags reads those arguments of static pods that are compared.
func staticPodFlags(dir string) map[string]string {
	out := map[string]string{}
	var last string
	var args map[string]string
	for _, key := range facts.ComparedFlags {
		pod, flag, _ := strings.Cut(key, "/")
		if pod != last {
			last, args = pod, nil
			if p, err := staticpod.Read(filepath.Join(dir, pod+".yaml")); err == nil {
				args = staticpod.Arguments(p)
			}
		}
		if value, ok := args[flag]; ok {
			out[key] = value
		}
	}
	return out
}
