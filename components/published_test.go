package components

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestPublishedIsTheSame holds what the projects publish to what the modules make: the same versions, and on a host the
// same programs in the same places.
func TestPublishedIsTheSame(t *testing.T) {
	for _, r := range Releases() {
		for _, arch := range Architectures {
			t.Run(r.Kubernetes+" "+arch, func(t *testing.T) { publishedIsTheSame(t, r, arch) })
		}
	}
}

func publishedIsTheSame(t *testing.T, r Release, arch string) {
	t.Helper()
	p, ok := r.Published(arch)
	if !ok {
		t.Fatal("nothing is known to be published")
	}
	have := map[string]bool{}
	kubeadms := 0
	for _, f := range p.Files {
		if c, ok := r.Component(f.Component); ok && c.Version != f.Version {
			t.Errorf("%s is %s published and %s compiled", f.Component, f.Version, c.Version)
		}
		if !strings.Contains(f.URL, strings.TrimPrefix(f.Version, "v")) {
			t.Errorf("%s is not of %s", f.URL, f.Version)
		}
		if !strings.Contains(f.URL, arch) {
			t.Errorf("%s is not for %s", f.URL, arch)
		}
		for _, at := range []string{f.URL, f.Checksum} {
			if u, err := url.Parse(at); err != nil || u.Scheme != "https" || strings.Contains(at, "{") {
				t.Errorf("%s is not an https address", at)
			}
		}
		for program, member := range f.Programs {
			if have[program] || strings.Contains(member, "{") {
				t.Errorf("%s: %s %q", f.Name(), program, member)
			}
			have[program] = true
		}
		if f.Kubeadm != "" {
			kubeadms++
		}
	}
	if kubeadms != 1 {
		t.Errorf("%d files have kubeadm", kubeadms)
	}
	for _, name := range r.Host.Components {
		c, _ := r.Component(name)
		for _, program := range programsOf(c) {
			if !have[program] && !onlyInImages[program] {
				t.Errorf("hosts need %s, and nobody is known to publish it", program)
			}
		}
	}
	for _, i := range r.Images {
		known := slices.ContainsFunc(p.Images, func(o PublishedImage) bool { return o.Short == i.Short })
		if known != (i.Name != "") {
			t.Errorf("image %s: kubeadm names it, or the table does: not both, not neither", i.Short)
		}
	}
}

// onlyInImages are programs that lie on hosts because one layer has everything, and that nothing there runs.
var onlyInImages = map[string]bool{
	"usr/local/bin/kubernetes": true, "usr/local/bin/agnhost": true, "usr/local/bin/kube-apiserver": true,
	"usr/local/bin/kube-controller-manager": true, "usr/local/bin/kube-proxy": true, "usr/local/bin/kube-scheduler": true,
}

func programsOf(c Component) (out []string) {
	for link := range c.Links {
		out = append(out, link)
	}
	if c.Go != nil {
		for _, b := range c.Go.Binaries {
			out = append(out, b.Path)
		}
	}
	return out
}
