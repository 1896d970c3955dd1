package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations
var migrations embed.FS

// migrate raises the schema, one replica at a time, and refuses a newer one.
func (c *connection) migrate(ctx context.Context) error {
	if c.server != nil {
		c.server.patient.Store(true)
		defer c.server.patient.Store(false)
	}
	files, err := fs.Sub(migrations, "migrations/"+c.dialect)
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	dialect := goose.DialectSQLite3
	if c.dialect == dialectPostgres {
		dialect = goose.DialectPostgres
		// The lock is a table. An advisory lock belongs to a connection, and
		// PgBouncer in transaction mode does not keep one.
		locker, err := lock.NewPostgresTableLocker(lock.WithTableLockTimeout(250*time.Millisecond, 480))
		if err != nil {
			return err
		}
		options = append(options, goose.WithLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, c.db.DB.DB, files, options...)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	has, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema version: %w", err)
	}
	sources := provider.ListSources()
	knows := sources[len(sources)-1].Version
	switch {
	case has > knows:
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrSchemaNewer, has, knows)
	case has == knows:
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("raising the schema from version %d to %d: %w", has, knows, err)
	}
	return nil
}

// Migrate raises the schema and does nothing else.
func Migrate(ctx context.Context, cfg Config) error {
	c, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(c.migrate(ctx), c.close())
}
