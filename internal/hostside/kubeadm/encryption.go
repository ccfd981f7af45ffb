package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

var encryptionFile = filepath.Join(pkiDir, encryption.File)

// ensureEncryption creates the first encryption key if there is none.
func ensureEncryption(path string) error {
	if system.Filled(path) {
		return nil
	}
	file, err := encryption.Keys{encryption.NewKey(encryption.FirstKey)}.Marshal()
	if err != nil {
		return err
	}
	return durable.WriteFile(path, file, 0o600)
}

// ReadEncryptionKeys returns a control plane's encryption keys and, if a name is given, a new key with that name. The new key
// is not in a file yet: keys are stored only on control planes, and are in memory on the way between them.
var ReadEncryptionKeys = host.Define("kubeadm.read-encryption-keys", func(_ context.Context, add string) (encryption.Keys, error) {
	keys, err := readEncryption(encryptionFile)
	if err == nil && add != "" {
		keys = append(keys, encryption.NewKey(add))
	}
	return keys, err
}, host.Secret, host.Secret)

// WriteEncryptionKeys replaces a control plane's encryption keys and returns the hash of the file, which the API server
// reports after it has loaded the file. The API server reads the file once a minute and needs no restart.
var WriteEncryptionKeys = host.Define("kubeadm.write-encryption-keys", func(_ context.Context, keys encryption.Keys) (string, error) {
	return writeEncryption(encryptionFile, keys)
}, host.Secret, host.Secret)

func writeEncryption(path string, keys encryption.Keys) (string, error) {
	have, err := readEncryption(path)
	if err != nil {
		return "", err
	}
	// Secrets are currently written with the first key.
	if kept, err := keys.Select([]string{have[0].Name}); err != nil || kept[0] != have[0] {
		return "", fmt.Errorf("the key %s encrypts what is written now: without it, %s could no longer be read", have[0].Name, path)
	}
	file, err := keys.Marshal()
	if err != nil {
		return "", err
	}
	return encryption.Hash(file), durable.WriteFile(path, file, 0o600)
}

func readEncryption(path string) (encryption.Keys, error) {
	file, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: this control plane does not encrypt secrets", path)
	}
	if err != nil {
		return nil, err
	}
	return encryption.Parse(file)
}
