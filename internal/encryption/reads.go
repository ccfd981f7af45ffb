package encryption

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"
	"sigs.k8s.io/yaml"
)

// marked begins every value that an API server encrypted.
const marked = "k8s:enc:"

// Mark is the beginning of a value in etcd that an API server encrypted: it names the provider, its version, and the key, as in
// k8s:enc:secretbox:v1:key1: or k8s:enc:kms:v2:vault: It is empty if the value is not encrypted.
func Mark(value []byte) string {
	if !bytes.HasPrefix(value, []byte(marked)) {
		return ""
	}
	end := len(marked)
	for range 3 {
		n := bytes.IndexByte(value[end:], ':')
		if n < 0 {
			return marked
		}
		end += n + 1
	}
	return string(value[:end])
}

// Reads lists the marks of what an encryption configuration decrypts, whoever wrote it, and the names of its KMS providers, which keep
// their keys elsewhere.
func Reads(file []byte) (marks, kms []string, _ error) {
	type keys struct {
		Keys []struct {
			Name string `json:"name"`
		} `json:"keys"`
	}
	var c struct {
		Kind      string `json:"kind"`
		Resources []struct {
			Providers []struct {
				AESGCM    keys `json:"aesgcm"`
				AESCBC    keys `json:"aescbc"`
				Secretbox keys `json:"secretbox"`
				KMS       struct {
					APIVersion string `json:"apiVersion"`
					Name       string `json:"name"`
				} `json:"kms"`
			} `json:"providers"`
		} `json:"resources"`
	}
	if err := yaml.Unmarshal(file, &c); err != nil || c.Kind != "EncryptionConfiguration" {
		return nil, nil, errors.New("it is no encryption configuration of an API server") // the parser's error would quote the file
	}
	found, providers := map[string]bool{}, map[string]bool{}
	add := func(provider, version, name string) {
		found[Mark([]byte(marked+provider+":"+version+":"+name+":"))] = true
	}
	for _, r := range c.Resources {
		for _, p := range r.Providers {
			for provider, list := range map[string]keys{"aesgcm": p.AESGCM, "aescbc": p.AESCBC, "secretbox": p.Secretbox} {
				for _, k := range list.Keys {
					add(provider, "v1", k.Name)
				}
			}
			if p.KMS.Name == "" {
				continue
			}
			providers[p.KMS.Name] = true
			version := p.KMS.APIVersion
			if version == "" {
				version = "v1"
			}
			add("kms", version, p.KMS.Name)
		}
	}
	return slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(providers)), nil
}

// Covers checks that a configuration has the key of everything that is encrypted. Encrypted has the marks that were found, each with a
// key in etcd that has such a value. There may be no file, if nothing is encrypted.
func Covers(file []byte, encrypted map[string]string) error {
	var marks []string
	if file != nil {
		var err error
		if marks, _, err = Reads(file); err != nil {
			return err
		}
	}
	var missing []string
	for _, mark := range slices.Sorted(maps.Keys(encrypted)) {
		if !slices.Contains(marks, mark) {
			missing = append(missing, fmt.Sprintf("%s (such as %s)", strings.TrimSuffix(mark, ":"), encrypted[mark]))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the encryption configuration does not have the keys of values in etcd: %s", strings.Join(missing, ", "))
	}
	return nil
}

// secretboxMark begins the marks of values that Keys can decrypt.
const (
	secretboxMark  = marked + "secretbox:v1:"
	secretboxNonce = 24
)

// Opens says whether the key that the mark of a value names decrypts it. A key of the same name can be another one: every cluster begins with a
// key of the name FirstKey. A value of another provider is not looked at, and known is false.
func (k Keys) Opens(value []byte) (opens, known bool) {
	mark := Mark(value)
	name, ours := strings.CutPrefix(mark, secretboxMark)
	if !ours {
		return false, false
	}
	sealed := value[len(mark):]
	for _, key := range k {
		secret, err := base64.StdEncoding.DecodeString(key.Secret)
		if key.Name+":" != name || err != nil || len(secret) != 32 || len(sealed) < secretboxNonce {
			continue
		}
		if _, ok := secretbox.Open(nil, sealed[secretboxNonce:], (*[secretboxNonce]byte)(sealed), (*[32]byte)(secret)); ok {
			return true, true
		}
	}
	return false, true
}

// IsKMS says that a mark is of a value whose key a KMS provider has.
func IsKMS(mark string) bool { return strings.HasPrefix(mark, marked+"kms:") }

// WithoutKMS is an encryption configuration without its KMS providers, for an API server that cannot reach them. One that has none stays as
// it is.
func WithoutKMS(file []byte) ([]byte, error) {
	if file == nil {
		return nil, nil
	}
	if _, kms, err := Reads(file); err != nil || len(kms) == 0 {
		return file, err
	}
	var c map[string]any
	if err := yaml.Unmarshal(file, &c); err != nil {
		return nil, errors.New("it is no encryption configuration of an API server")
	}
	resources, _ := c["resources"].([]any)
	for _, r := range resources {
		r, ok := r.(map[string]any)
		if !ok {
			continue
		}
		providers, _ := r["providers"].([]any)
		providers = slices.DeleteFunc(providers, func(p any) bool {
			provider, _ := p.(map[string]any)
			_, has := provider["kms"]
			return has
		})
		if len(providers) == 0 {
			providers = []any{map[string]any{"identity": map[string]any{}}}
		}
		r["providers"] = providers
	}
	return yaml.Marshal(c)
}
