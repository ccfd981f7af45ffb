package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// What control planes note about backups in etcd, so that each of them knows what the others did.
const (
	// lastKey has the last good backup.
	lastKey = "/quorate.dev/backup-last"
	// failedKeys, followed by the name of a host, has its last attempt, if that failed.
	failedKeys = "/quorate.dev/backup-failed/"
	// generationKey says which schedule counts.
	generationKey = "/quorate.dev/backup-schedule"
	// noteTimeout is how long reading or writing them may take.
	noteTimeout = 5 * time.Second
	// errorLimit is for the text of an error.
	errorLimit = 600
)

// Report reads what is noted about the backups of the cluster.
var Report = host.Define("backup.report", func(ctx context.Context, _ struct{}) (facts.BackupReport, error) {
	p, err := local("")
	if err != nil {
		return facts.BackupReport{}, err
	}
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return facts.BackupReport{}, err
	}
	defer client.Close()
	since, err := scheduledSince(facts.BackupScheduleFile)
	if err != nil {
		return facts.BackupReport{}, err
	}
	return report(ctx, client, time.Now(), since)
}, host.Reads)

// scheduledSince is when this control plane got its schedule; zero if it has none.
func scheduledSince(file string) (time.Time, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func report(ctx context.Context, client *clientv3.Client, now, since time.Time) (facts.BackupReport, error) {
	out := facts.BackupReport{Now: now, Since: since}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	// Not WithSerializable: a member that lags would say that a backup is due which another host has just taken.
	r, err := client.Txn(ctx).Then(clientv3.OpGet(lastKey), clientv3.OpGet(failedKeys, clientv3.WithPrefix()), clientv3.OpGet(generationKey)).Commit()
	if err != nil {
		return out, fmt.Errorf("reading from etcd what is noted about backups: %w", err)
	}
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		var last facts.LastBackup
		if err := json.Unmarshal(kv.Value, &last); err != nil {
			return out, fmt.Errorf("reading %s in etcd: %w", kv.Key, err)
		}
		out.Last = &last
	}
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		var failed facts.FailedBackup
		if err := json.Unmarshal(kv.Value, &failed); err != nil {
			return out, fmt.Errorf("reading %s in etcd: %w", kv.Key, err)
		}
		if out.Failed == nil {
			out.Failed = map[string]facts.FailedBackup{}
		}
		out.Failed[strings.TrimPrefix(string(kv.Key), failedKeys)] = failed
	}
	for _, kv := range r.Responses[2].GetResponseRange().Kvs {
		out.Generation = string(kv.Value)
	}
	return out, nil
}

// noteGood notes a backup that was stored and read again, if this control plane still holds the lock.
func (p controlPlane) noteGood(ctx context.Context, client *clientv3.Client, held clientv3.Cmp, last facts.LastBackup) error {
	text, err := json.Marshal(last)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	r, err := client.Txn(ctx).If(held).Then(clientv3.OpPut(lastKey, string(text)), clientv3.OpDelete(failedKeys+p.host)).Commit()
	if err == nil && !r.Succeeded {
		err = errLost
	}
	return err
}

// noteFailed notes an attempt of this control plane that failed.
func (p controlPlane) noteFailed(ctx context.Context, client *clientv3.Client, why string) error {
	if len(why) > errorLimit {
		why = strings.ToValidUTF8(why[:errorLimit], "") + "…"
	}
	text, err := json.Marshal(facts.FailedBackup{Time: time.Now().UTC(), Error: why})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	_, err = client.Put(ctx, failedKeys+p.host, string(text))
	return err
}
