package encryption

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
)

func TestFileGoesThereAndBack(t *testing.T) {
	keys := Keys{NewKey("key2"), NewKey("key1")}
	file, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(file)
	if err != nil || !slices.Equal(got, keys) {
		t.Fatalf("%v, %v", got, err)
	}
	if secret, err := base64.StdEncoding.DecodeString(keys[0].Secret); err != nil || len(secret) != 32 || keys[0].Secret == keys[1].Secret {
		t.Errorf("a secret of %d bytes, %v", len(secret), err)
	}
	if strings.Contains(string(file), "identity") {
		t.Error("secrets may be stored in plain text")
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(file)); Hash(file) != want {
		t.Errorf("hash %s, want %s", Hash(file), want)
	}
}

func TestSelect(t *testing.T) {
	keys := Keys{NewKey("key1"), NewKey("key2")}
	got, err := keys.Select([]string{"key2", "key1"})
	if err != nil || !slices.Equal(got, Keys{keys[1], keys[0]}) {
		t.Errorf("%v, %v", got.Names(), err)
	}
	if _, err := keys.Select([]string{"key3"}); err == nil {
		t.Error("a key that is not there was found")
	}
}

func TestForeignFilesAreRefusedWithoutQuotingThem(t *testing.T) {
	for _, file := range []string{
		"", "resources: []", "resources: [{resources: [secrets], providers: [{kms: {name: x}}]}]",
		"resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: SECRET}]}}, {identity: {}}]}]",
		"resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: [SECRET]}]}}]}]",
	} {
		if keys, err := Parse([]byte(file)); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v, %v", file, keys.Names(), err)
		}
	}
}

// TestOpens: a key of the same name can be that of another cluster.
func TestOpens(t *testing.T) {
	keys := Keys{NewKey("key1"), NewKey("key2")}
	seal := func(k Key, name string) []byte {
		secret, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			t.Fatal(err)
		}
		nonce := [24]byte{1, 2, 3}
		return secretbox.Seal(append([]byte("k8s:enc:secretbox:v1:"+name+":"), nonce[:]...), []byte("secret"), &nonce, (*[32]byte)(secret))
	}
	for name, tc := range map[string]struct {
		value        []byte
		opens, known bool
	}{
		"the first key":       {seal(keys[0], "key1"), true, true},
		"the second key":      {seal(keys[1], "key2"), true, true},
		"another one's":       {seal(NewKey("key1"), "key1"), false, true},
		"a key that is lost":  {seal(keys[0], "key3"), false, true},
		"a value that is cut": {[]byte("k8s:enc:secretbox:v1:key1:x"), false, true},
		"another provider":    {[]byte("k8s:enc:aescbc:v1:key1:x"), false, false},
		"plain text":          {[]byte("x"), false, false},
	} {
		if opens, known := keys.Opens(tc.value); opens != tc.opens || known != tc.known {
			t.Errorf("%s: %v, %v", name, opens, known)
		}
	}
}
