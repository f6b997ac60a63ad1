import java.sql.*;
import java.util.*;

/** What JDBC makes of a denial, by its settings. */
public class Denials {
    static final String DENIED = "INSERT INTO closed.vault VALUES (1, 'in')";

    interface Body {
        void run() throws Exception;
    }

    static void fails(Body body) throws Exception {
        try {
            body.run();
            System.out.println("done");
        } catch (BatchUpdateException error) {
            System.out.println(error.getSQLState() + " " + Arrays.toString(error.getUpdateCounts()));
        } catch (SQLException error) {
            System.out.println(error.getSQLState());
        }
    }

    static int work(Connection conn, int number) throws Exception {
        try (PreparedStatement insert = conn.prepareStatement("INSERT INTO work VALUES (?, 'x')")) {
            insert.setInt(1, number);
            return insert.executeUpdate();
        }
    }

    static Statement batch(Connection conn) throws Exception {
        Statement batch = conn.createStatement();
        batch.addBatch("INSERT INTO work VALUES (10, 'first')");
        batch.addBatch(DENIED);
        batch.addBatch("INSERT INTO work VALUES (11, 'third')");
        return batch;
    }

    static Connection connect(String more) throws Exception {
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE") + "?sslmode=disable&user=" + System.getenv("PGUSER") + more);
    }

    static void autosave(String how) throws Exception {
        try (Connection conn = connect("&prepareThreshold=1&autosave=" + how)) {
            conn.setAutoCommit(false);
            work(conn, 10);
            for (int round = 0; round < 2; round++) {
                int number = round + 1;
                fails(() -> conn.prepareStatement("INSERT INTO closed.vault VALUES (" + number + ", 'in')").executeUpdate());
            }
            fails(() -> work(conn, 11));
            fails(() -> conn.commit());
        }
    }

    public static void main(String[] words) throws Exception {
        switch (words[0]) {
            case "batch":
                try (Connection conn = connect("")) {
                    fails(() -> batch(conn).executeBatch());
                    System.out.println(work(conn, 12));
                }
                break;
            case "batch_in_transaction":
                try (Connection conn = connect("")) {
                    conn.setAutoCommit(false);
                    work(conn, 9);
                    Savepoint here = conn.setSavepoint();
                    fails(() -> batch(conn).executeBatch());
                    fails(() -> work(conn, 12));
                    conn.rollback(here);
                    work(conn, 13);
                    conn.commit();
                }
                break;
            case "batch_prepared":
                try (Connection conn = connect("&prepareThreshold=1&reWriteBatchedInserts=true")) {
                    PreparedStatement insert = conn.prepareStatement("INSERT INTO closed.vault VALUES (?, 'in')");
                    for (int number = 1; number < 8; number++) {
                        insert.setInt(1, number);
                        insert.addBatch();
                    }
                    fails(() -> insert.executeBatch());
                    System.out.println(work(conn, 12));
                }
                break;
            case "fetch_size":
                try (Connection conn = connect("")) {
                    conn.setAutoCommit(false);
                    Statement walk = conn.createStatement();
                    walk.setFetchSize(1);
                    ResultSet result = walk.executeQuery("SELECT id FROM work ORDER BY id");
                    result.next();
                    fails(() -> conn.createStatement().execute(DENIED));
                    fails(() -> result.next());
                    conn.rollback();
                }
                break;
            case "simple":
                try (Connection conn = connect("&preferQueryMode=simple")) {
                    conn.setAutoCommit(false);
                    work(conn, 10);
                    fails(() -> conn.createStatement().execute(DENIED));
                    fails(() -> conn.commit());
                    work(conn, 11);
                    conn.commit();
                }
                break;
            default:
                autosave(words[0]);
        }
    }
}
