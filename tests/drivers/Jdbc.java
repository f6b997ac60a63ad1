import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

/** What JDBC sees, as JSON lines. */
public class Jdbc {
    static void say(String name, Object... got) {
        StringBuilder line = new StringBuilder("[\"" + name + "\"");
        for (Object one : got) {
            line.append(", \"").append(String.valueOf(one).replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n")).append('"');
        }
        System.out.println(line.append(']'));
    }

    static List<List<String>> rows(ResultSet result) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        ResultSetMetaData about = result.getMetaData();
        while (result.next()) {
            List<String> row = new ArrayList<>();
            for (int column = 1; column <= about.getColumnCount(); column++) {
                row.add(about.getColumnName(column) + ":" + about.getColumnTypeName(column) + "=" + result.getString(column));
            }
            rows.add(row);
        }
        return rows;
    }

    interface Body {
        void run() throws Exception;
    }

    static void fails(String name, Body body) throws Exception {
        try {
            body.run();
            say(name, "it did not fail");
        } catch (SQLException error) {
            say(name, error.getSQLState(), error.getMessage());
        }
    }

    public static void main(String[] words) throws Exception {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE")
            + "?sslmode=disable&user=" + System.getenv("PGUSER");
        for (String mode : new String[] {"&prepareThreshold=1", "&preferQueryMode=simple", "&binaryTransfer=false"}) {
            try (Connection conn = DriverManager.getConnection(url + mode)) {
                session(conn, mode);
            }
        }
    }

    static void session(Connection conn, String mode) throws Exception {
        Statement statement = conn.createStatement();
        say("types", mode, rows(statement.executeQuery("SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e, "
            + "123.456::numeric AS f, true AS g, 'x'::text AS h, '\\x00ff'::bytea AS i, '2020-02-03'::date AS j, "
            + "'2020-02-03 04:05:06+00'::timestamptz AS k, '1 day 02:03:04'::interval AS l, "
            + "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS m, '{\"a\": 1}'::jsonb AS n")));
        say("nulls", mode, rows(statement.executeQuery("SELECT * FROM items ORDER BY id")));
        say("arrays", mode, rows(statement.executeQuery("SELECT ARRAY[1, 2, NULL] AS a, ARRAY['x', 'y,z'] AS b")));
        PreparedStatement byId = conn.prepareStatement("SELECT name FROM items WHERE id = ?");
        for (int round = 0; round < 8; round++) {
            byId.setInt(1, 1 + round % 3);
            say("prepared", mode, rows(byId.executeQuery()));
        }
        conn.setAutoCommit(false);
        statement.executeUpdate("INSERT INTO work VALUES (1, 'gone')");
        Savepoint here = conn.setSavepoint("here");
        fails("error", () -> statement.executeUpdate("INSERT INTO work VALUES (1, 'twice')"));
        fails("error", () -> statement.executeQuery("SELECT 1"));
        conn.rollback(here);
        say("savepoint", mode, rows(statement.executeQuery("SELECT count(*) FROM work")));
        conn.rollback();
        say("transaction", mode, rows(statement.executeQuery("SELECT count(*) FROM work")));
        PreparedStatement walk = conn.prepareStatement("SELECT * FROM many ORDER BY id");
        walk.setFetchSize(300);
        long size = 0;
        try (ResultSet result = walk.executeQuery()) {
            while (result.next()) {
                size += result.getString(2).length();
            }
        }
        say("portion", mode, size);
        conn.commit();
        PreparedStatement insert = conn.prepareStatement("INSERT INTO work VALUES (?, ?)");
        for (int number = 0; number < 500; number++) {
            insert.setInt(1, number);
            insert.setString(2, "batch " + number);
            insert.addBatch();
        }
        say("pipeline", mode, Arrays.stream(insert.executeBatch()).sum());
        conn.commit();
        for (int number : new int[] {1000, 1001, 1000, 1002}) {
            insert.setInt(1, number);
            insert.setString(2, "x");
            insert.addBatch();
        }
        try {
            insert.executeBatch();
        } catch (BatchUpdateException error) {
            say("pipeline", mode, error.getSQLState(), Arrays.toString(error.getUpdateCounts()), error.getMessage());
        }
        conn.rollback();
        conn.setAutoCommit(true);
        PreparedStatement keys = conn.prepareStatement("INSERT INTO work VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS);
        keys.setInt(1, 2000);
        keys.setString(2, "key");
        keys.executeUpdate();
        say("returning", mode, rows(keys.getGeneratedKeys()));
        statement.execute("TRUNCATE work");
        CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder data = new StringBuilder();
        for (int number = 0; number < 4000; number++) {
            data.append(number).append("\tnote ").append(number).append('\n');
        }
        long copied = copy.copyIn("COPY work FROM STDIN", new StringReader(data.toString()));
        StringWriter out = new StringWriter();
        say("copy", mode, copied, copy.copyOut("COPY work TO STDOUT", out), out.toString().length());
        fails("copy", () -> copy.copyIn("COPY work FROM STDIN", new StringReader("not a number\tx\n")));
        statement.execute("TRUNCATE work");
        statement.execute("SELECT shout('jdbc')");
        say("notice", mode, statement.getWarnings());
        statement.clearWarnings();
        statement.execute("LISTEN news");
        statement.execute("SELECT pg_notify('news', 'jdbc')");
        PGNotification[] heard = conn.unwrap(PGConnection.class).getNotifications(5000);
        say("notify", mode, heard[0].getName(), heard[0].getParameter());
        new Timer(true).schedule(new TimerTask() {
            public void run() {
                try {
                    statement.cancel();
                } catch (SQLException error) {
                    say("cancel", error);
                }
            }
        }, 500);
        fails("cancel", () -> statement.execute("SELECT pg_sleep(60)"));
        DatabaseMetaData about = conn.getMetaData();
        say("reflect", mode, rows(about.getColumns(null, "public", "items", null)).size(), rows(about.getPrimaryKeys(null, "public", "items")));
        statement.setQueryTimeout(1);
        fails("cancel", () -> statement.execute("SELECT pg_sleep(60)"));
    }
}
