package backup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
)

// LocationOf is the store that a spec names, with the credentials that its files, or the environment, hold on this machine.
func LocationOf(b spec.Backup) (Location, error) {
	switch {
	case b.SFTP != (spec.BackupSFTP{}):
		key, err := paths.Read(b.SFTP.KeyFile)
		if err != nil {
			return Location{}, fmt.Errorf("reading spec.backup.sftp.keyFile: %w", err)
		}
		var locked *ssh.PassphraseMissingError
		switch _, err := ssh.ParsePrivateKey(key); {
		case errors.As(err, &locked):
			return Location{}, fmt.Errorf("%s has a passphrase, and a control plane uses it: use a key without one that is only for backups", b.SFTP.KeyFile)
		case err != nil:
			return Location{}, fmt.Errorf("%s is not a private key of SSH", b.SFTP.KeyFile)
		}
		return Location{SFTP: &SFTP{Address: b.SFTP.Address, User: b.SFTP.User, Directory: b.SFTP.Directory, HostKey: b.SFTP.HostKey, Key: key}}, nil
	case b.S3 != (spec.BackupS3{}):
		return s3Of(b.S3)
	}
	return Location{Directory: b.Directory}, nil
}

func s3Of(b spec.BackupS3) (Location, error) {
	out := &S3{Endpoint: b.Endpoint, Bucket: b.Bucket, Prefix: b.Prefix, Region: b.Region}
	if b.CAFile != "" {
		ca, err := paths.Read(b.CAFile)
		if err != nil {
			return Location{}, fmt.Errorf("reading spec.backup.s3.caFile: %w", err)
		}
		out.CA = ca
	}
	if b.InstanceRole {
		out.InstanceRole = true
		return Location{S3: out}, nil
	}
	if b.CredentialsFile == "" {
		out.AccessKey, out.SecretKey, out.SessionToken = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
		if out.AccessKey == "" || out.SecretKey == "" {
			return Location{}, errors.New("there are no credentials for the S3 store: set spec.backup.s3.credentialsFile, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or spec.backup.s3.instanceRole if the control planes have a role in their cloud")
		}
		return Location{S3: out}, nil
	}
	data, err := paths.Read(b.CredentialsFile)
	if err != nil {
		return Location{}, fmt.Errorf("reading spec.backup.s3.credentialsFile: %w", err)
	}
	values := credentialsIn(string(data))
	out.AccessKey, out.SecretKey, out.SessionToken = values["aws_access_key_id"], values["aws_secret_access_key"], values["aws_session_token"]
	if out.AccessKey == "" || out.SecretKey == "" {
		return Location{}, fmt.Errorf("%s has no aws_access_key_id and aws_secret_access_key in the profile default", b.CredentialsFile)
	}
	return Location{S3: out}, nil
}

// credentialsIn reads the profile default of a file like ~/.aws/credentials. A file without profiles is one of them.
func credentialsIn(text string) map[string]string {
	out, profile := map[string]string{}, "default"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			profile = strings.TrimSpace(strings.TrimSuffix(name, "]"))
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if ok && profile == "default" && line[0] != '#' {
			out[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return out
}

// ReadIdentities reads a file with identities of age, or a private key of SSH.
func ReadIdentities(file string) ([]age.Identity, error) {
	data, err := paths.Read(file)
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	if !bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		out, err := age.ParseIdentities(bytes.NewReader(data))
		if err != nil || len(out) == 0 {
			return nil, fmt.Errorf("%s holds no identity of age (AGE-SECRET-KEY-1…) and no private key of SSH", file)
		}
		return out, nil
	}
	identity, err := agessh.ParseIdentity(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("%s has a passphrase: remove it from a copy of the file (`ssh-keygen -p -N '' -f COPY`), and delete the copy afterwards", file)
	case err != nil:
		return nil, fmt.Errorf("%s is not a private key of SSH that age supports", file)
	}
	return []age.Identity{identity}, nil
}
