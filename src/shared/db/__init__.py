"""Every statement that PostgreSQL gets, by table and by task."""
