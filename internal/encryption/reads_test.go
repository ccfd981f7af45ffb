package encryption

import (
	"slices"
	"strings"
	"testing"
)

func TestMarks(t *testing.T) {
	for value, want := range map[string]string{
		"k8s:enc:secretbox:v1:key1:\x00\x01:": "k8s:enc:secretbox:v1:key1:", "k8s:enc:kms:v2:vault:x": "k8s:enc:kms:v2:vault:",
		"k8s\x00\n\x0c": "", "": "", "{}": "", "k8s:enc:": "k8s:enc:", "k8s:enc:aescbc:v1:cut": "k8s:enc:",
	} {
		if got := Mark([]byte(value)); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

// anyones is a configuration that Quorate would not write.
const anyones = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: new, secret: c2VjcmV0}, {name: old, secret: c2VjcmV0}]}
  - kms: {apiVersion: v2, name: vault, endpoint: unix:///run/kms.sock}
  - identity: {}
- resources: [configmaps]
  providers:
  - aesgcm: {keys: [{name: "a:b", secret: c2VjcmV0}]}
  - kms: {name: former, endpoint: unix:///run/former.sock}
`

func TestWhatAConfigurationReads(t *testing.T) {
	marks, kms, err := Reads([]byte(anyones))
	if err != nil || !slices.Equal(kms, []string{"former", "vault"}) ||
		!slices.Equal(marks, []string{"k8s:enc:aescbc:v1:new:", "k8s:enc:aescbc:v1:old:", "k8s:enc:aesgcm:v1:a:", "k8s:enc:kms:v1:former:", "k8s:enc:kms:v2:vault:"}) {
		t.Errorf("%q %q %v", marks, kms, err)
	}
	own, err := Keys{NewKey("key2"), NewKey("key1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if marks, kms, err := Reads(own); err != nil || len(kms) > 0 || !slices.Equal(marks, []string{"k8s:enc:secretbox:v1:key1:", "k8s:enc:secretbox:v1:key2:"}) {
		t.Errorf("%q %q %v", marks, kms, err)
	}
	for _, text := range []string{"", "kind: Pod", "secret: [very-secret"} {
		if _, _, err := Reads([]byte(text)); err == nil || strings.Contains(err.Error(), "very") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestEverythingThatIsEncryptedNeedsItsKey(t *testing.T) {
	key1, key2 := map[string]string{"k8s:enc:secretbox:v1:key1:": "/registry/secrets/a"}, map[string]string{"k8s:enc:secretbox:v1:key1:": "/registry/secrets/a", "k8s:enc:secretbox:v1:key2:": "/registry/secrets/b"}
	own, err := Keys{NewKey("key1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		file  []byte
		found map[string]string
		want  string
	}{
		"the same":             {own, key1, ""},
		"nothing is encrypted": {own, nil, ""},
		"no file":              {nil, nil, ""},
		"no file, and keys":    {nil, key1, "k8s:enc:secretbox:v1:key1 (such as /registry/secrets/a)"},
		"it was rotated since": {own, key2, "k8s:enc:secretbox:v1:key2 (such as /registry/secrets/b)"},
		"of another provider":  {own, map[string]string{"k8s:enc:aescbc:v1:key1:": "/x"}, "aescbc"},
		"no configuration":     {[]byte("x"), nil, "no encryption configuration"},
	} {
		switch err := Covers(tc.file, tc.found); {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWithoutKMS(t *testing.T) {
	const local = "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - secretbox: {keys: [{name: a, secret: eA==}]}\n"
	if got, err := WithoutKMS([]byte(local)); err != nil || string(got) != local {
		t.Errorf("%q %v", got, err)
	}
	if got, err := WithoutKMS(nil); err != nil || got != nil {
		t.Errorf("%q %v", got, err)
	}
	const both = local + "- resources: [configmaps]\n  providers:\n  - kms: {apiVersion: v2, name: vault, endpoint: unix:///x}\n"
	got, err := WithoutKMS([]byte(both))
	if err != nil {
		t.Fatal(err)
	}
	marks, kms, err := Reads(got)
	if err != nil || len(kms) > 0 || !slices.Equal(marks, []string{"k8s:enc:secretbox:v1:a:"}) || !strings.Contains(string(got), "identity") {
		t.Errorf("%v %v %v %s", marks, kms, err, got)
	}
	if _, err := WithoutKMS([]byte("SECRET")); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("%v", err)
	}
	if !IsKMS("k8s:enc:kms:v2:vault:") || IsKMS("k8s:enc:secretbox:v1:a:") || IsKMS("") {
		t.Error("marks are mistaken")
	}
}
