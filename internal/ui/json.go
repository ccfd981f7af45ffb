package ui

import (
	"bytes"
	"encoding/json"
	"time"

	"quorate.dev/quorate/internal/progress"
)

// jsonView writes each event as one line of JSON; log lines become notes of the step "log".
type jsonView struct{ out bytes.Buffer }

func (*jsonView) pace() (time.Duration, bool) { return time.Second, true }

func (v *jsonView) event(_ time.Time, e progress.Event) {
	json.NewEncoder(&v.out).Encode(e) //nolint:errcheck // neither the event nor a buffer can fail
}

func (v *jsonView) log(now time.Time, line string) {
	v.event(now, progress.Event{Time: now, Kind: progress.Note, ID: "log", Detail: line})
}

func (v *jsonView) render(time.Time, bool) []byte {
	out := bytes.Clone(v.out.Bytes())
	v.out.Reset()
	return out
}
