package kubeadm

import (
	"strings"
	"testing"
)

// TestWithEndpoint keeps everything that the endpoint has nothing to do with.
func TestWithEndpoint(t *testing.T) {
	stored := "kind: ClusterConfiguration\napiServer:\n  certSANs: [api.old.internal, 10.0.0.100, mine.internal]\n  extraArgs: [{name: v, value: \"2\"}]\ncontrolPlaneEndpoint: api.old.internal:6443\n"
	out, err := WithEndpoint(stored, "", []string{"api.new.internal", "10.0.0.100"}, nil)
	if err != nil || !strings.Contains(out, "controlPlaneEndpoint: api.old.internal:6443") || !strings.Contains(out, "- api.old.internal\n  - 10.0.0.100\n  - mine.internal\n  - api.new.internal\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = WithEndpoint(out, "api.new.internal:443", nil, []string{"api.old.internal"}); err != nil || strings.Contains(out, "old") || !strings.Contains(out, "mine.internal") ||
		!strings.Contains(out, "controlPlaneEndpoint: api.new.internal:443") || !strings.Contains(out, "name: v") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := WithEndpoint("kind: Other\n", "", nil, nil); err == nil {
		t.Error("another object is changed")
	}
}

// TestWithAuthority changes what clients trust, and nothing else.
func TestWithAuthority(t *testing.T) {
	stored := "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: T0xE\n    server: https://api.example.com:6443\n  name: \"\"\nkind: Config\nusers: null\n"
	if have := string(AuthorityOf(stored)); have != "OLD" {
		t.Errorf("%q", have)
	}
	changed := WithAuthority(stored, []byte("OLD AND NEW"))
	if have := string(AuthorityOf(changed)); have != "OLD AND NEW" {
		t.Errorf("%q", have)
	}
	if back := WithAuthority(changed, []byte("OLD")); back != stored {
		t.Errorf("%s", back)
	}
	const file = "clusters:\n- cluster:\n    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt\n    server: https://api.example.com:6443\n"
	if AuthorityOf(file) != nil || WithAuthority(file, []byte("NEW")) != file {
		t.Error("a kubeconfig that names a file is changed")
	}
}
