package bundle

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/components"
)

// publishes has the mirror hold the checksum of a Kubernetes release, by which a release is found.
func (m *mirror) publishes(t *testing.T, versions ...string) {
	t.Helper()
	for _, v := range versions {
		_, p, ok := components.PublishedFor(v, archOfHere)
		if !ok {
			t.Fatalf("nothing is known to be published of %s", v)
		}
		m.files.Store(strings.TrimPrefix(p.Files[0].Checksum, "https://"), []byte(strings.Repeat("0", 128)))
	}
}

func TestListAvailable(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	m := startMirror(t)
	m.files.Store("dl.k8s.io/release/stable-1.37.txt", []byte("v1.37.4\n"))
	m.publishes(t, "v1.37.0", "v1.37.1", "v1.37.2", "v1.37.4", "v1.37.5", "v1.36.0", "v1.36.9", "v1.36.3")
	all, problems, err := ListAvailable(t.Context(), m.mirror(), 5*time.Second)
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	var published, compiled []string
	for _, a := range all {
		if a.Published {
			published = append(published, a.Version)
		}
		if a.Modules {
			compiled = append(compiled, a.Version)
		}
	}
	// v1.37.5 is after the newest that the project names, and v1.37.3 is missing. Of v1.36, the mirror does not say which is the newest.
	if want := []string{"v1.37.4", "v1.37.2", "v1.37.1", "v1.37.0", "v1.36.9", "v1.36.3", "v1.36.0"}; !slices.Equal(published, want) {
		t.Errorf("published %q, want %q", published, want)
	}
	if want := Versions(); len(compiled) != len(want) {
		t.Errorf("compiled %q, want %q", compiled, want)
	}
}

// What can be compiled is known although the source does not answer, and within the patience.
func TestListAvailableWithoutASource(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"it forbids": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "no", http.StatusForbidden)
			return true
		},
		"it is silent": func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
		"it says nonsense": func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, ".txt") && func() bool { w.Write([]byte("v1.37.4000000")); return true }()
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := startMirror(t)
			m.breaks(fault)
			begin := time.Now()
			all, problems, err := ListAvailable(t.Context(), m.mirror(), 300*time.Millisecond)
			if err != nil || len(problems) != len(components.Minors()) || len(all) != len(Versions()) {
				t.Errorf("%+v, %q, %v", all, problems, err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}
