package inspect

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// TestTokensOfPods lays files out as a kubelet does: a directory for each payload, and a link to the one that counts.
func TestTokensOfPods(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := func(key, pod string) string {
		sum := sha256.Sum256([]byte(key))
		claims := `{"sub":"system:serviceaccount:shop:web","kubernetes.io":{"pod":{"uid":"` + pod + `"}}}`
		return encode(`{"alg":"ES256","kid":"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"}`) + "." + encode(claims) + ".c2ln"
	}
	id := func(key string) string { sum := sha256.Sum256([]byte(key)); return hex.EncodeToString(sum[:]) }
	put := func(volume, payload, name, content string, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, volume, payload, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	current := func(volume, payload string) {
		t.Helper()
		if err := os.Symlink(payload, filepath.Join(dir, volume, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	const a, b, c, other = "u-a/volumes/kubernetes.io~projected/kube-api-access-x", "u-b/volumes/kubernetes.io~projected/tokens", "u-c/volumes/kubernetes.io~projected/gone", "u-b/volumes/kubernetes.io~secret/tokens"
	put(a, "..2026_1", "token", token("old", "u-a"), time.Hour)
	put(a, "..2026_2", "token", token("new", "u-a"), time.Minute)
	put(a, "..2026_2", "ca.crt", "-----BEGIN CERTIFICATE-----", time.Minute)
	current(a, "..2026_2")
	put(b, "..2026_1", "deep/in/vault", token("old", "u-b"), -time.Second) // the clock was set back
	put(b, "..2026_1", "of-another-pod", token("old", "u-x"), time.Hour)
	put(b, "..2026_1", "of-a-secret", token("old", ""), time.Hour)
	put(b, "..2026_1", "large", token("old", "u-b")+strings.Repeat(" ", largestToken), time.Hour)
	current(b, "..2026_1")
	put(c, "..2026_1", "token", token("old", "u-c"), time.Hour) // nothing leads there any more
	put(other, "..2026_1", "token", token("old", "u-b"), time.Hour)
	current(other, "..2026_1")

	have, err := tokens(t.Context(), dir, now)
	if err != nil {
		t.Fatal(err)
	}
	want := []facts.PodToken{{Pod: "u-a", SignedBy: id("new"), Age: time.Minute}, {Pod: "u-b", SignedBy: id("old")}}
	for i := range have {
		have[i].Age = have[i].Age.Round(time.Second) // file systems round
	}
	if !slices.Equal(have, want) {
		t.Errorf("%+v, want %+v", have, want)
	}
	if have, err := tokens(t.Context(), filepath.Join(dir, "nowhere"), now); err != nil || len(have) > 0 {
		t.Errorf("%v, %v", have, err)
	}
}
