package spec

import (
	"path/filepath"
	"strings"
	"testing"
)

// Every example is a cluster that can be built: lab-*.yaml in a lab, the others on real hosts.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := Read(file)
			if err != nil {
				t.Fatal(err)
			}
			lab := strings.HasPrefix(filepath.Base(file), "lab-")
			c, err := Check(data, file, Options{Lab: lab})
			if err != nil {
				t.Fatal(err)
			}
			if c.NeedsLab() != lab {
				t.Error("an example has addresses if and only if it is not a lab's")
			}
		})
	}
}

func TestLabExampleIsTheDefaultLab(t *testing.T) {
	data, err := Read("../../examples/lab-stacked.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Check(data, "", Options{Lab: true})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Equal(DefaultLab(c.Metadata.Name)) {
		t.Error("examples/lab-stacked.yaml is no longer what `quorate up` builds by default")
	}
}
