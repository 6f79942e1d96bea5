package manager

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"kubernaut.ai/notification/api/v1alpha1"
	"kubernaut.ai/notification/internal/audit"
	auditclient "kubernaut.ai/notification/internal/audit/client"
	"kubernaut.ai/notification/internal/audit/dlq"
	"kubernaut.ai/notification/internal/controller"
	"kubernaut.ai/notification/internal/delivery"
)

// Run runs the manager until ctx is done. The audit store is closed after the
// manager has returned, whatever it returned, since reconcilers record events
// until then. The logger is the one in ctx.
func Run(ctx context.Context, config *rest.Config, o Options) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	log := logr.FromContextOrDiscard(ctx)
	if err := os.MkdirAll(o.FileRoot, 0o750); err != nil {
		return fmt.Errorf("make the directory of --file-root: %w", err)
	}
	requests := &controller.NotificationRequestReconciler{IncludeBody: o.AuditIncludeBody, KeepSecrets: o.Redaction == off}
	storage, err := auditclient.New(auditclient.Options{
		URL: o.DataStorageURL, CAFile: o.DataStorageCAFile, TokenFile: o.DataStorageTokenFile,
	})
	if err != nil {
		return err
	}
	letters, closeLetters, err := openDLQ(o, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLetters()) }()
	defer storage.CloseIdleConnections()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	keeper := &witnessKeeper{client: clients, namespace: o.namespace()}
	witness, err := audit.NewWitness(o.Audit.LogKey, storage, keeper, audit.WitnessOptions{
		Log: log, Metrics: metrics.Registry, Alarm: keeper.alarm,
	})
	if err != nil {
		return err
	}
	store, err := audit.NewStore(o.Audit, storage, letters, audit.Options{
		Log: log, Metrics: metrics.Registry, OnReceipts: requests.OnReceipts, Witness: witness,
	})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.ShutdownTimeout/3)
		defer cancel()
		err = errors.Join(err, store.Close(closing))
	}()

	mgr, err := newManager(config, o, log)
	if err != nil {
		return err
	}
	keeper.events = mgr.GetEventRecorder("notification-controller")
	gate := witnessedGate{audit.NewGate(storage.Ready, log), witness}
	if o.OnAuditOutage == hold {
		requests.Recordable = func(ctx context.Context) error {
			if err := gate.Fresh(ctx); err != nil {
				return err
			}
			return store.Outage()
		}
	}
	if err := setup(mgr, o, requests, store, gate, log); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run manager: %w", err)
	}
	return nil
}

// openDLQ opens the dead-letter queue that the options ask for.
func openDLQ(o Options, log logr.Logger) (audit.DLQ, func() error, error) {
	if o.DLQBackend == redisDLQ {
		// In a cluster this is the pod's name, which no other pod has.
		host, err := os.Hostname()
		if err != nil {
			return nil, nil, fmt.Errorf("name this process for --dlq-backend=redis: %w", err)
		}
		letters, err := dlq.OpenRedis(o.RedisURL, o.DLQKeyPrefix, host, log)
		if err != nil {
			return nil, nil, err
		}
		return letters, letters.Close, nil
	}
	letters, err := dlq.Open(o.DLQPath, o.DLQMaxBytes, log)
	if err != nil {
		return nil, nil, err
	}
	return letters, letters.Close, nil
}

// newManager builds a controller manager that is fit for irreversible effects: a
// client that reads its own writes, and no cache of any Secret's content.
func newManager(config *rest.Config, o Options, log logr.Logger) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("build scheme: %w", err)
	}
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own priority and fairness is the limit

	namespaces := map[string]cache.Config{}
	for _, name := range list(o.WatchNamespaces) {
		namespaces[name] = cache.Config{}
	}
	clients := client.Options{Cache: &client.CacheOptions{EnableReadYourWritesConsistency: new(len(namespaces) < 2)}}
	if len(namespaces) > 1 {
		// Reading one's own writes does not work with a cache for each namespace.
		clients.Cache.DisableFor = []client.Object{&v1alpha1.NotificationRequest{}, &v1alpha1.NotificationChannel{}}
	}
	secret := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Logger: log,
		Client: clients,
		Cache: cache.Options{
			DefaultNamespaces:           namespaces,
			DefaultTransform:            cache.TransformStripManagedFields(),
			ReaderFailOnMissingInformer: true,
			ByObject:                    map[client.Object]cache.ByObject{secret: {Transform: identity}},
		},
		Metrics:                       metricsOptions(o),
		HealthProbeBindAddress:        o.HealthProbeAddress,
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              "notification.kubernaut.ai",
		LeaderElectionNamespace:       o.namespace(),
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       new(o.ShutdownTimeout * 2 / 3),
	})
	if err != nil {
		return nil, fmt.Errorf("build manager: %w", err)
	}
	return mgr, nil
}

// identity leaves of a Secret's metadata what names one revision of it. The
// annotation that kubectl apply leaves holds the content.
func identity(object any) (any, error) {
	secret, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	secret.ObjectMeta = metav1.ObjectMeta{
		Namespace: secret.Namespace, Name: secret.Name, UID: secret.UID, ResourceVersion: secret.ResourceVersion,
	}
	return secret, nil
}

func metricsOptions(o Options) metricsserver.Options {
	options := metricsserver.Options{BindAddress: o.MetricsAddress}
	if !loopback(o.MetricsAddress) {
		options.SecureServing = true
		options.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	return options
}

// setup adds the controllers, the audit store and the checks to the manager.
func setup(mgr ctrl.Manager, o Options, requests *controller.NotificationRequestReconciler, store *audit.Store, gate witnessedGate, log logr.Logger) error {
	networks, err := o.allowNetworks()
	if err != nil {
		return err
	}
	channels := &controller.Channels{
		Reader:   mgr.GetCache(),
		Secrets:  mgr.GetAPIReader(),
		HTTP:     delivery.NewHTTP(delivery.HTTPOptions{AllowNetworks: networks, UserAgent: "kubernaut-notification"}),
		Console:  delivery.NewConsole(log.WithName("console"), os.Stdout),
		FileRoot: o.FileRoot,
	}
	health := &controller.ChannelHealth{}
	requests.Client = mgr.GetClient()
	requests.Channels = channels
	requests.Routes = mgr.GetAPIReader()
	requests.Events = mgr.GetEventRecorder("notification-controller")
	requests.Record = store.Record
	requests.Metrics = controller.NewMetrics(metrics.Registry)
	requests.Health = health
	return errors.Join(
		setupAcknowledge(mgr, o.Acknowledge, requests, log),
		mgr.Add(store),
		mgr.Add(gate.witness),
		requests.SetupWithManager(mgr, gate, metrics.Registry, o.MaxConcurrent),
		(&controller.NotificationChannelReconciler{Client: mgr.GetClient(), Channels: channels, Health: health, Events: requests.Events}).SetupWithManager(mgr),
		(&controller.NotificationRouteReconciler{Client: mgr.GetClient(), Channels: channels}).SetupWithManager(mgr),
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("datastorage", gate.Check),
		mgr.AddReadyzCheck("audit-store", store.Check),
		mgr.AddReadyzCheck("audit-log", gate.witness.Check),
	)
}
