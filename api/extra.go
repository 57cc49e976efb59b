package api

import (
	"net/http"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// exemptExtra takes o.Extra out of the limits made for short requests: the
// timeout of a minute and the number in flight.
func exemptExtra(config *app.Config, o Options) {
	generic := config.Aggregator.GenericConfig
	upstream := generic.LongRunningFunc
	generic.LongRunningFunc = func(r *http.Request, info *request.RequestInfo) bool {
		if !info.IsResourceRequest {
			for prefix := range o.Extra {
				if strings.HasPrefix(info.Path, prefix) {
					return true
				}
			}
		}
		return upstream(r, info)
	}
}

// mountExtra serves o.Extra beside the API.
func (s *Server) mountExtra(o Options) {
	for prefix, handler := range o.Extra {
		s.chain.GenericAPIServer.Handler.NonGoRestfulMux.HandlePrefix(prefix, handler)
	}
}
