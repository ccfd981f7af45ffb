package run

import (
	"cmp"
	"context"
	"errors"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
)

// Workloads reads what runs in a cluster that was observed. The error says why nobody could be asked.
func (e *Engine) Workloads(ctx context.Context, s *cluster.State) (*facts.Workloads, error) {
	if s.Seen.API == nil {
		return nil, errors.New(cmp.Or(s.Seen.APIError, "the API could not be read"))
	}
	client, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	return observe.Workloads(ctx, client), nil
}
