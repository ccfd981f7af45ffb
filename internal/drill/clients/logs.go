package clients

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/drillpods"
)

// logs are what all clients have experienced, as far as it was read.
type logs struct {
	mu sync.Mutex
	// lines are by source: a host, for the clients in its pod, or a process here. They are in the order of their seconds.
	lines map[string][]probe.Second
	// ready are the lines of Ready clients. They tell API servers apart, also in intervals in which nobody connects to them.
	ready []probe.Second
	// reached is, by source, the second of the last line. All lines of earlier seconds are there.
	reached map[string]int64
	// same are all clients: the lines of one have its strings in common.
	same    map[probe.Client]probe.Client
	ledgers probe.Ledgers
	unknown int // writes that may have happened
}

func newLogs() *logs {
	return &logs{lines: map[string][]probe.Second{}, reached: map[string]int64{}, same: map[probe.Client]probe.Client{}, ledgers: probe.Ledgers{}}
}

// add adds a line of a source.
func (l *logs) add(source string, line probe.Second) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, is := l.same[line.Client]; is {
		line.Client = known
	} else {
		l.same[line.Client] = line.Client
	}
	if line.Ledger != "" {
		l.ledgers[line.Ledger] = append(l.ledgers[line.Ledger], line.Acknowledged...)
		// Without a connection, there was no write.
		l.unknown += line.Failed - line.Phases[probe.Dial] - line.Phases[probe.TLS]
		line.Ledger, line.Acknowledged = "", nil
	}
	if line.Client.Operation == probe.Ready {
		l.ready = append(l.ready, line)
	}
	lines := l.lines[source]
	i := len(lines)
	for i > 0 && lines[i-1].At > line.At { // a clock was set back
		i--
	}
	l.lines[source] = slices.Insert(lines, i, line)
	l.reached[source] = max(l.reached[source], line.At)
}

// has says whether all lines of a source are there up to a moment.
func (l *logs) has(source string, to time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reached[source] >= to.Unix()
}

// summary adds up the lines of an interval.
func (l *logs) summary(from, to time.Time) *probe.Summary {
	s := probe.NewSummary(from, to)
	l.within(from, to, func(_ string, line probe.Second) { s.Add(line) })
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.ready {
		if line.At < from.Unix() || line.At >= to.Unix() {
			s.Add(line)
		}
	}
	return s
}

// within calls f with every line of the whole seconds of an interval, source by source.
func (l *logs) within(from, to time.Time, f func(source string, line probe.Second)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, source := range slices.Sorted(maps.Keys(l.lines)) {
		lines := l.lines[source]
		for _, line := range lines[first(lines, from):] {
			if line.At >= to.Unix() {
				break
			}
			f(source, line)
		}
	}
}

// first is the index of the first line of a second or a later one.
func first(lines []probe.Second, from time.Time) int {
	i, _ := slices.BinarySearchFunc(lines, from.Unix(), func(line probe.Second, at int64) int { return cmp.Compare(line.At, at) })
	return i
}

// samples add up what the clients of each kind experienced in each second.
func (l *logs) samples(from, to time.Time) (out []drill.Sample) {
	type key struct {
		second int64
		kind   string
	}
	by := map[key]*drill.Sample{}
	l.within(from, to, func(_ string, line probe.Second) {
		if isInstrument(line.Client) {
			return
		}
		k := key{line.At, Kind(line.Client)}
		if by[k] == nil {
			by[k] = &drill.Sample{Second: k.second, Client: k.kind}
		}
		s := by[k]
		s.OK += line.Requests - line.Failed
		s.Failed += line.Failed
		s.Slowest = max(s.Slowest, float64(line.Slowest.Round(100*time.Microsecond))/float64(time.Millisecond))
	})
	for _, s := range by {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b drill.Sample) int {
		return cmp.Or(cmp.Compare(a.Second, b.Second), cmp.Compare(a.Client, b.Client))
	})
	return out
}

// forget drops the lines of earlier seconds. What was acknowledged stays.
func (l *logs) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for source, lines := range l.lines {
		l.lines[source] = slices.Clone(lines[first(lines, before):]) // a part of the slice would keep all of its memory
	}
}

// written returns the ledgers, and how many writes are not known to have happened.
func (l *logs) written() (probe.Ledgers, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := probe.Ledgers{}
	for name, entries := range l.ledgers {
		out[name] = slices.Clone(entries)
	}
	return out, l.unknown
}

// checked drops entries from the ledgers: the first ones, which written has returned.
func (l *logs) checked(entries probe.Ledgers) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, gone := range entries {
		l.ledgers[name] = slices.Clone(l.ledgers[name][len(gone):])
	}
}

// podLog reads what the clients in the pod of a host log.
type podLog struct {
	host string
	dir  string // for a copy; none if it is empty
	to   *logs

	mu   sync.Mutex
	from map[string]int64 // by file, how much of it was read
	// shift is by how many seconds the clock of the host is ahead; see shifted.
	shift int64
}

// read reads what is new.
func (p *podLog) read(ctx context.Context, conns *host.Set) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, err := conns.Get(p.host)
	if err != nil {
		return err
	}
	for {
		asked := time.Now()
		out, err := drillpods.Read.On(ctx, conn, drillpods.ReadRequest{From: p.from})
		if err != nil {
			return err
		}
		// The host answered some time between the request and the reply. If that was long, nothing is known of its clock.
		if took := time.Since(asked); took < time.Second {
			p.shift = shifted(p.shift, out.Now.Sub(asked.Add(took/2)))
		}
		for _, part := range out.Parts {
			if err := p.add(part); err != nil {
				return fmt.Errorf("%s: reading what clients logged: %w", p.host, err)
			}
		}
		if !out.More {
			return nil
		}
	}
}

// shifted is by how many seconds the lines of a host are moved whose clock is ahead by so much: lines are whole seconds. So a line counts at
// most half a second too early or too late, which decides only to which interval it belongs; what is in it was measured by one clock. It
// changes only if it is clearly wrong, so that no second is counted twice because a clock drifts around half of one.
func shifted(shift int64, ahead time.Duration) int64 {
	if off := ahead - time.Duration(shift)*time.Second; off.Abs() > 750*time.Millisecond {
		return int64(ahead.Round(time.Second) / time.Second)
	}
	return shift
}

// add adds a part of a file.
func (p *podLog) add(part drillpods.Part) error {
	if !drillpods.LogFile.MatchString(part.File) {
		return fmt.Errorf("there is a file %q", part.File)
	}
	if p.dir != "" {
		if err := appendTo(filepath.Join(p.dir, p.host+"-"+part.File), part.Data); err != nil {
			return err
		}
	}
	for text := range bytes.Lines(part.Data) {
		var line probe.Second
		// What is no line was being written when the power was cut. The second is missing, which Starved tells if there are more of them.
		if json.Unmarshal(text, &line) == nil {
			p.to.add(p.host, atCaller(line, p.shift))
		}
	}
	p.from[part.File] += int64(len(part.Data))
	return nil
}

// atCaller is a line with the times of this computer's clock.
func atCaller(line probe.Second, shift int64) probe.Second {
	if shift == 0 {
		return line
	}
	line.At -= shift
	line.Since = line.Since.Add(-time.Duration(shift) * time.Second)
	for _, at := range line.Connected {
		for i := range at {
			at[i] -= shift * 1000
		}
	}
	for text := range line.FailedAt {
		line.FailedAt[text] -= shift * 1000
	}
	return line
}

func appendTo(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
