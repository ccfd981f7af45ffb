// Package encryption is the API server's file that says with which keys secrets are encrypted in etcd. It is pure.
package encryption

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"sigs.k8s.io/yaml"
)

// File is where the keys lie below /etc/kubernetes/pki: with everything else that control planes share and that kubeadm
// reset must take away.
const File = "encryption.yaml"

// Key is one key of the secretbox provider.
type Key struct {
	Name   string `json:"name"`
	Secret string `json:"secret"` // base64 of 32 bytes
}

// Keys are tried in order when a secret is read; the first one encrypts what is written.
type Keys []Key

// NewKey makes a key.
func NewKey(name string) Key {
	secret := make([]byte, 32)
	rand.Read(secret) //nolint:errcheck // never fails, as its documentation says
	return Key{Name: name, Secret: base64.StdEncoding.EncodeToString(secret)}
}

// FirstKey is the name of the key that a cluster begins with.
const FirstKey = "key1"

type configuration struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Resources  []resource `json:"resources"`
}

type resource struct {
	Resources []string   `json:"resources"`
	Providers []provider `json:"providers"`
}

type provider struct {
	Secretbox *keyList `json:"secretbox"`
}

type keyList struct {
	Keys Keys `json:"keys"`
}

// Marshal renders the file. There is no identity provider: from its first moment on the cluster writes no secret in plain
// text, so one that is found in plain text was put there by somebody else.
func (k Keys) Marshal() ([]byte, error) {
	return yaml.Marshal(configuration{APIVersion: "apiserver.config.k8s.io/v1", Kind: "EncryptionConfiguration",
		Resources: []resource{{Resources: []string{"secrets"}, Providers: []provider{{Secretbox: &keyList{k}}}}}})
}

// Parse reads a file that Marshal made. Anything else was written by somebody with plans of their own.
func Parse(file []byte) (Keys, error) {
	var c configuration
	if err := yaml.UnmarshalStrict(file, &c); err != nil {
		return nil, errForeign
	}
	if len(c.Resources) != 1 || len(c.Resources[0].Providers) != 1 || c.Resources[0].Providers[0].Secretbox == nil || len(c.Resources[0].Providers[0].Secretbox.Keys) == 0 {
		return nil, errForeign
	}
	return c.Resources[0].Providers[0].Secretbox.Keys, nil
}

// The parser's own error would quote the file, and with it a key.
var errForeign = errors.New("the encryption configuration is not one that quorate made: it must have exactly one provider, secretbox, for secrets")

// Names are the keys' names in order.
func (k Keys) Names() []string {
	var out []string
	for _, key := range k {
		out = append(out, key.Name)
	}
	return out
}

// Select returns the keys of these names, in this order.
func (k Keys) Select(names []string) (Keys, error) {
	var out Keys
	for _, name := range names {
		found := false
		for _, key := range k {
			if key.Name == name {
				out, found = append(out, key), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no encryption key named %s", name)
		}
	}
	return out, nil
}

// Hash names a file's content as the API server does in its metric of the configuration that it uses.
func Hash(file []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(file)) }

// Metric is the API server's metric that has Hash as a label.
const Metric = "apiserver_encryption_config_controller_last_config_info"
