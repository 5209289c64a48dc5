"""Run migrations on the connection from `store.schema`, or write them as SQL if there is none."""

from alembic import context

from session_authority_server.store.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect_name"],
        target_metadata=metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
else:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        render_as_batch=True,
    )
with context.begin_transaction():
    context.run_migrations()
