package spec

import (
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

const (
	ageKey = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDX5Zr1GQh5u0n2aLwQ7NTbCBzPFbG8jJFWZpT7rXw5N me@example"
)

func backupSpec(lines ...string) string {
	return strings.Replace(real, "  hosts:\n", "  backup:\n    "+strings.Join(lines, "\n    ")+"\n  hosts:\n", 1)
}

func TestBackup(t *testing.T) {
	for name, tc := range map[string]struct {
		lines []string
		want  string // part of the only problem; empty if there is none
	}{
		"directory":         {lines: []string{"recipients: [" + ageKey + "]", "directory: /mnt/backups"}},
		"every ten minutes": {lines: []string{"recipients: [" + ageKey + "]", "directory: /mnt/backups", "every: 10m"}},
		"never":             {lines: []string{"recipients: [" + ageKey + "]", "directory: /mnt/backups", "every: never"}},
		"too often":         {[]string{"recipients: [" + ageKey + "]", "directory: /mnt", "every: 9m59s"}, "spec.backup.every: `9m59s` is too often"},
		"no duration":       {[]string{"recipients: [" + ageKey + "]", "directory: /mnt", "every: daily"}, "spec.backup.every: `daily` is not a duration"},
		"a negative time":   {[]string{"recipients: [" + ageKey + "]", "directory: /mnt", "every: -1h"}, "spec.backup.every: `-1h` is not a duration"},
		"only a schedule":   {[]string{"every: never", "directory: /mnt"}, "spec.backup.recipients: backups have no recipients"},
		"sftp":              {lines: []string{"recipients: [" + ageKey + "]", "sftp: {address: backup.example.com, user: u, directory: /b, keyFile: key, hostKey: 'SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'}"}},
		"sftp, IPv6":        {lines: []string{"recipients: [" + ageKey + "]", "sftp: {address: '[fd00::1]', user: u, directory: /b, keyFile: key, hostKey: 'SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'}"}},
		"sftp, IPv6, port":  {lines: []string{"recipients: [" + ageKey + "]", "sftp: {address: '[fd00::1]:22', user: u, directory: /b, keyFile: key, hostKey: 'SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'}"}},
		"no brackets":       {[]string{"recipients: [" + ageKey + "]", "sftp: {address: 'fd00::1', user: u, directory: /b, keyFile: key, hostKey: '" + sshKey + "'}"}, "write `[fd00::1]:22`"},
		"wrong brackets":    {[]string{"recipients: [" + ageKey + "]", "sftp: {address: '[b:c]:22', user: u, directory: /b, keyFile: key, hostKey: '" + sshKey + "'}"}, "`[b:c]:22` is not an address"},
		"s3":                {lines: []string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://s3.example.com', bucket: b}", "keep: {last: 3}"}},
		"instance role":     {lines: []string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://s3.example.com', bucket: b, instanceRole: true}"}},
		"a role and a file": {[]string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://s3.example.com', bucket: b, instanceRole: true, credentialsFile: f}"}, "spec.backup.s3.instanceRole"},
		"no recipients":     {[]string{"directory: /mnt"}, "spec.backup.recipients: backups have no recipients"},
		"not a recipient":   {[]string{"recipients: [age1abc]", "directory: /mnt"}, "spec.backup.recipients[0]: `age1abc` is not a public key of age"},
		"not a key of SSH":  {[]string{"recipients: [ssh-ed25519 x]", "directory: /mnt"}, "spec.backup.recipients[0]: `ssh-ed25519 x` is not a public key of SSH"},
		"no store":          {[]string{"recipients: [" + ageKey + "]"}, "spec.backup: backups have no store"},
		"two stores":        {[]string{"recipients: [" + ageKey + "]", "directory: /mnt", "s3: {endpoint: 'https://s3.example.com', bucket: b}"}, "spec.backup: backups have 2 stores"},
		"relative":          {[]string{"recipients: [" + ageKey + "]", "directory: mnt"}, "`mnt` is relative"},
		"no host key":       {[]string{"recipients: [" + ageKey + "]", "sftp: {address: b, user: u, directory: /b, keyFile: key}"}, "spec.backup.sftp.hostKey: the SFTP server has no hostKey"},
		"a wrong host key":  {[]string{"recipients: [" + ageKey + "]", "sftp: {address: b, user: u, directory: /b, keyFile: key, hostKey: 'SHA256:x'}"}, "spec.backup.sftp.hostKey"},
		"no address":        {[]string{"recipients: [" + ageKey + "]", "sftp: {address: 'b:x', user: u, directory: /b, keyFile: key, hostKey: '" + sshKey + "'}"}, "spec.backup.sftp.address"},
		"http":              {[]string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'http://s3.example.com', bucket: b}"}, "over `http`"},
		"a path":            {[]string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://s3.example.com/b', bucket: b}"}, "more than a host and a port"},
		"a password":        {[]string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://me:pass@s3.example.com', bucket: b}"}, "must not contain a password"},
		"no bucket":         {[]string{"recipients: [" + ageKey + "]", "s3: {endpoint: 'https://s3.example.com'}"}, "spec.backup.s3.bucket"},
		"a negative number": {[]string{"recipients: [" + ageKey + "]", "directory: /mnt", "keep: {daily: -1}"}, "spec.backup.keep.daily"},
	} {
		c, err := Check([]byte(backupSpec(tc.lines...)), "c.yaml", Options{})
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want == "":
			interval := map[string]time.Duration{"every ten minutes": 10 * time.Minute, "never": 0}
			want, given := interval[name]
			if !given {
				want = 6 * time.Hour
			}
			if b := c.Spec.Backup; b.Interval() != want || b.Keep == (BackupRetention{}) || name == "sftp" && b.SFTP.Address != "backup.example.com:22" || strings.HasPrefix(name, "sftp, IPv6") && b.SFTP.Address != "[fd00::1]:22" {
				t.Errorf("%s: a default is missing: %+v", name, b)
			}
		case err == nil || !strings.Contains(err.Error(), tc.want) || strings.Count(err.Error(), "\n") > 0:
			t.Errorf("%s: %v", name, err)
		}
	}
	if b := mustParse(t, real).Spec.Backup; b.Given() || b.Interval() != 0 {
		t.Error("a spec without backups has some")
	}
}

// Keys against quantum computers cannot be used together with others.
func TestRecipientsMustFitTogether(t *testing.T) {
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	alone, mixed := pq.Recipient().String(), "["+pq.Recipient().String()+", "+ageKey+"]"
	if _, err := Check([]byte(backupSpec("recipients: ["+alone+"]", "directory: /mnt")), "c.yaml", Options{}); err != nil {
		t.Error(err)
	}
	if _, err := Check([]byte(backupSpec("recipients: "+mixed, "directory: /mnt")), "c.yaml", Options{}); err == nil || !strings.Contains(err.Error(), "spec.backup.recipients: nothing can be encrypted to all of these keys together") {
		t.Error(err)
	}
}

func TestAPrivateKeyIsNotRepeated(t *testing.T) {
	const secret = "AGE-SECRET-KEY-1QQPQYQ"
	_, err := Check([]byte(backupSpec("recipients: ["+secret+"]", "directory: /mnt")), "c.yaml", Options{})
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "private key") {
		t.Error(err)
	}
}
