package spec

import "testing"

// TestComponentsForAnArchitecture: what an architecture says counts for its hosts alone, and the rest for all.
func TestComponentsForAnArchitecture(t *testing.T) {
	all := Components{Source: SourceBundle, File: "all.tar", Digest: "sha256:all", CAFile: "ca"}
	for name, tc := range map[string]struct {
		amd64, arm64         ArchBundle
		wantAMD64, wantARM64 Components
	}{
		"none": {wantAMD64: all, wantARM64: all},
		"a file": {arm64: ArchBundle{File: "arm.tar"}, wantAMD64: all,
			wantARM64: Components{Source: SourceBundle, File: "arm.tar", CAFile: "ca"}}, // the digest is that of the other one
		"a reference": {amd64: ArchBundle{Reference: "r@sha256:amd", Digest: "sha256:amd"}, wantARM64: all,
			wantAMD64: Components{Source: SourceBundle, Reference: "r@sha256:amd", Digest: "sha256:amd", CAFile: "ca"}},
		"a digest": {arm64: ArchBundle{Digest: "sha256:arm"}, wantAMD64: all,
			wantARM64: Components{Source: SourceBundle, File: "all.tar", Digest: "sha256:arm", CAFile: "ca"}},
	} {
		c := all
		c.AMD64, c.ARM64 = tc.amd64, tc.arm64
		if got := c.For("amd64"); got != tc.wantAMD64 {
			t.Errorf("%s: amd64 has %+v", name, got)
		}
		if got := c.For("arm64"); got != tc.wantARM64 {
			t.Errorf("%s: arm64 has %+v", name, got)
		}
	}
}
